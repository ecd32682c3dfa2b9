//! Thin gRPC services: protocol messages to use cases and back, nothing else.
