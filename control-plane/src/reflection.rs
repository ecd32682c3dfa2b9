//! What gRPC clients can discover: reflection (both versions) and health.

use nullspend_proto::DESCRIPTORS;
use prost::Message;
use prost_reflect::{DescriptorPool, FileDescriptor};
use tonic::service::Routes;

/// The planes' own protocol is nobody else's business.
const HIDDEN_PACKAGE: &str = "nullspend.internal";

/// The reflection service could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ReflectionError {
    /// The compiled descriptor set is damaged.
    #[error("reading the API descriptors")]
    Descriptors(#[from] prost_reflect::DescriptorError),
    /// The reflection library refused it.
    #[error("building the reflection service")]
    Build(#[from] tonic_reflection::server::Error),
}

/// One file in an encoded `FileDescriptorSet`; as bytes, because prost's typed form drops custom options.
#[derive(Clone, PartialEq, Message)]
struct EncodedSet {
    #[prost(bytes = "vec", repeated, tag = "1")]
    file: Vec<Vec<u8>>,
}

fn public_descriptors() -> Result<Vec<u8>, ReflectionError> {
    let pool = DescriptorPool::decode(DESCRIPTORS)?;
    let public = pool.files().filter(|file| !file.package_name().starts_with(HIDDEN_PACKAGE));
    let file = public.map(|file: FileDescriptor| file.encode_to_vec()).collect();
    Ok(EncodedSet { file }.encode_to_vec())
}

/// Adds reflection v1 and v1alpha (older grpcurl) to the routes.
///
/// # Errors
/// When the descriptors are damaged.
pub fn add_reflection(routes: Routes) -> Result<Routes, ReflectionError> {
    let descriptors = public_descriptors()?;
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(&descriptors)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(routes.add_service(builder().build_v1()?).add_service(builder().build_v1alpha()?))
}
