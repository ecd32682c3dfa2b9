//! One proxied request as a state machine without I/O (design §5).
pub mod answer;
pub mod head;
pub mod upstream;
