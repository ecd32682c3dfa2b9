//! The API definition (`nullspend.v1`), the planes' own protocol (`nullspend.internal.v1`) and the descriptors
//! that the REST gateway, reflection and OpenAPI are derived from.
#![allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]

/// Google's well-known HTTP mapping messages.
pub mod google {
    pub mod api {
        tonic::include_proto!("google.api");
    }
}

/// The product's protocols.
pub mod nullspend {
    /// The public API.
    pub mod v1 {
        tonic::include_proto!("nullspend.v1");
    }
    /// Between data planes and the control plane.
    pub mod internal {
        pub mod v1 {
            tonic::include_proto!("nullspend.internal.v1");
        }
    }
}

mod records;

pub use nullspend::{internal::v1 as internal, v1};

/// Every file's descriptor, source comments and custom options included.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
