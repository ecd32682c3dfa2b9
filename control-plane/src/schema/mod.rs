//! What the descriptors say about the API, read once at start: methods with their REST bindings and access rules,
//! and the JSON shape of every message. The gateway, authorisation and the OpenAPI document are all derived from it.

mod shape;
mod template;
pub(crate) mod time;
pub(crate) mod write;

use std::{collections::HashMap, sync::Arc};

use nullspend_core::policy::Role;
use nullspend_proto::{google::api::HttpRule, v1};
use prost_reflect::{DescriptorPool, DynamicMessage, ExtensionDescriptor, MethodDescriptor};

pub use self::{
    shape::{EnumShape, FieldShape, Kind, Label, MessageShape, ShapeId, Shapes, is_http_body},
    template::{Segment, Template},
};

/// Package whose services are the public API.
const PACKAGE: &str = "nullspend.v1";

/// The descriptors ask for something the product cannot serve; the start stops with this.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The compiled descriptor set is damaged.
    #[error("reading the API descriptors")]
    Descriptors(#[from] prost_reflect::DescriptorError),
    /// An option's value does not have the option's type.
    #[error("reading an option of {at}")]
    Option {
        /// Full name of the element.
        at: String,
        /// What prost said.
        #[source]
        source: prost::DecodeError,
    },
    /// A method, field or message breaks a rule of the API definition.
    #[error("{at}: {problem}")]
    Rule {
        /// Full name of the element.
        at: String,
        /// What to change in the protos.
        problem: String,
    },
}

impl SchemaError {
    pub(crate) fn rule(at: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Rule { at: at.into(), problem: problem.into() }
    }
}

/// Who may call a method (option `access`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone, without a credential.
    Public,
    /// Callers of at least this role, and agent keys where `agent` says so.
    Least {
        /// Least role of a person's credential.
        role: Role,
        /// Agent keys may call it too.
        agent: bool,
    },
}

/// Where the request message comes from in a REST call, beside path and query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyRule {
    /// There is no body: fields come from the query.
    Absent,
    /// The body is the message.
    Whole,
    /// The body is this field; the others come from the query.
    Field(String),
}

/// One REST address of a method.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The HTTP verb.
    pub verb: http::Method,
    /// The path.
    pub template: Template,
    /// The body.
    pub body: BodyRule,
    /// The response field that is the answer; `None`: the whole response message.
    pub response_body: Option<String>,
}

/// One method of the public API.
#[derive(Debug)]
pub struct Method {
    /// `/package.Service/Method`.
    pub grpc_path: String,
    /// Who may call it.
    pub access: Access,
    /// HTTP status of success.
    pub success_status: http::StatusCode,
    /// `Idempotency-Key` makes repeats return the first answer.
    pub idempotent: bool,
    /// The answer holds a secret: repeats are refused instead of answered.
    pub secret_answer: bool,
    /// Unknown JSON fields are ignored rather than refused.
    pub ignore_unknown: bool,
    /// REST addresses, the main one first.
    pub bindings: Vec<Binding>,
    /// Shape of the request.
    pub input: ShapeId,
    /// Shape of the response; `None`: a raw `google.api.HttpBody`.
    pub output: Option<ShapeId>,
    /// The descriptor, for documentation.
    pub descriptor: MethodDescriptor,
}

/// The whole API.
#[derive(Debug)]
pub struct Schema {
    /// Every file.
    pub pool: DescriptorPool,
    /// Methods in the order of the protos.
    pub methods: Vec<Arc<Method>>,
    /// JSON shapes of all reachable messages.
    pub shapes: Shapes,
    by_grpc_path: HashMap<String, Arc<Method>>,
}

impl Schema {
    /// Reads the descriptors compiled into the program.
    ///
    /// # Errors
    /// When a method lacks an option it must have, or asks for what the gateway cannot do.
    pub fn load() -> Result<Self, SchemaError> {
        Self::from_descriptors(nullspend_proto::DESCRIPTORS)
    }

    /// Reads an encoded descriptor set.
    ///
    /// # Errors
    /// As [`Schema::load`].
    pub fn from_descriptors(bytes: &[u8]) -> Result<Self, SchemaError> {
        let pool = DescriptorPool::decode(bytes)?;
        let options = MethodOptions::find(&pool)?;
        let mut shapes = Shapes::new(&pool)?;
        let mut methods = Vec::new();
        for service in pool.services().filter(|service| service.package_name() == PACKAGE) {
            for method in service.methods() {
                methods.push(Arc::new(options.read(&method, &mut shapes)?));
            }
        }
        let by_grpc_path = methods.iter().map(|m| (m.grpc_path.clone(), Arc::clone(m))).collect();
        Ok(Self { pool, methods, shapes, by_grpc_path })
    }

    /// The method of a gRPC path.
    #[must_use]
    pub fn method(&self, grpc_path: &str) -> Option<&Arc<Method>> {
        self.by_grpc_path.get(grpc_path)
    }
}

/// The method options of the API and of Google's HTTP mapping.
struct MethodOptions {
    access: ExtensionDescriptor,
    rest: ExtensionDescriptor,
    http: ExtensionDescriptor,
}

impl MethodOptions {
    fn find(pool: &DescriptorPool) -> Result<Self, SchemaError> {
        Ok(Self {
            access: extension(pool, "nullspend.v1.access")?,
            rest: extension(pool, "nullspend.v1.rest")?,
            http: extension(pool, "google.api.http")?,
        })
    }

    fn read(&self, method: &MethodDescriptor, shapes: &mut Shapes) -> Result<Method, SchemaError> {
        let at = method.full_name();
        let options = method.options();
        let access: v1::Access = message_option(&options, &self.access, at)?.ok_or_else(|| {
            SchemaError::rule(
                at,
                "give the method an `access` option: without one nobody knows who may call it",
            )
        })?;
        let rest: v1::Rest = message_option(&options, &self.rest, at)?.unwrap_or_default();
        let http: Option<HttpRule> = message_option(&options, &self.http, at)?;
        let status = if rest.success_status == 0 { 200 } else { rest.success_status };
        let success_status = u16::try_from(status)
            .ok()
            .and_then(|status| http::StatusCode::from_u16(status).ok())
            .filter(http::StatusCode::is_success)
            .ok_or_else(|| {
                SchemaError::rule(at, format!("success_status {status} is no HTTP status of success"))
            })?;
        let mut bindings = Vec::new();
        if let Some(rule) = http {
            if method.is_client_streaming() || method.is_server_streaming() {
                return Err(SchemaError::rule(at, "a streaming method cannot have a REST address"));
            }
            for rule in std::iter::once(&rule).chain(&rule.additional_bindings) {
                bindings.push(binding(rule, method)?);
            }
        }
        let output = method.output();
        Ok(Method {
            grpc_path: format!("/{}/{}", method.parent_service().full_name(), method.name()),
            access: read_access(&access, at)?,
            success_status,
            idempotent: rest.idempotent,
            secret_answer: rest.secret_answer,
            ignore_unknown: rest.ignore_unknown,
            bindings,
            input: shapes.add(&method.input())?,
            output: if is_http_body(&output) { None } else { Some(shapes.add(&output)?) },
            descriptor: method.clone(),
        })
    }
}

fn extension(pool: &DescriptorPool, name: &str) -> Result<ExtensionDescriptor, SchemaError> {
    pool.get_extension_by_name(name)
        .ok_or_else(|| SchemaError::rule(name, "the option is missing from the descriptors"))
}

fn message_option<M: prost::Message + Default>(
    options: &DynamicMessage,
    extension: &ExtensionDescriptor,
    at: &str,
) -> Result<Option<M>, SchemaError> {
    if !options.has_extension(extension) {
        return Ok(None);
    }
    let value = options.get_extension(extension);
    let Some(message) = value.as_message() else { return Ok(None) };
    message.transcode_to().map(Some).map_err(|source| SchemaError::Option { at: at.to_owned(), source })
}

fn read_access(access: &v1::Access, at: &str) -> Result<Access, SchemaError> {
    if access.public {
        return Ok(Access::Public);
    }
    let role = match access.role() {
        v1::Role::Unspecified | v1::Role::Agent => {
            return Err(SchemaError::rule(at, "`access` must name a role of VIEWER or above, or be public"));
        }
        v1::Role::Viewer => Role::Viewer,
        v1::Role::Member => Role::Member,
        v1::Role::Admin => Role::Admin,
        v1::Role::Owner => Role::Owner,
    };
    Ok(Access::Least { role, agent: access.agent })
}

fn binding(rule: &HttpRule, method: &MethodDescriptor) -> Result<Binding, SchemaError> {
    use nullspend_proto::google::api::http_rule::Pattern;
    let at = method.full_name();
    let (verb, path) = match &rule.pattern {
        Some(Pattern::Get(path)) => (http::Method::GET, path),
        Some(Pattern::Put(path)) => (http::Method::PUT, path),
        Some(Pattern::Post(path)) => (http::Method::POST, path),
        Some(Pattern::Delete(path)) => (http::Method::DELETE, path),
        Some(Pattern::Patch(path)) => (http::Method::PATCH, path),
        _ => return Err(SchemaError::rule(at, "the http rule names no verb this gateway knows")),
    };
    let template = Template::parse(path).map_err(|problem| SchemaError::rule(at, problem))?;
    let (input, output) = (method.input(), method.output());
    for field in template.fields() {
        if input.get_field_by_name(field).is_none() {
            return Err(SchemaError::rule(at, format!("the request has no field `{field}` for the path")));
        }
    }
    let body = match rule.body.as_str() {
        "" => BodyRule::Absent,
        "*" => BodyRule::Whole,
        field if input.get_field_by_name(field).is_some() => BodyRule::Field(field.to_owned()),
        field => {
            return Err(SchemaError::rule(at, format!("the request has no field `{field}` for the body")));
        }
    };
    let response_body = (!rule.response_body.is_empty()).then(|| rule.response_body.clone());
    if let Some(field) = &response_body
        && output.get_field_by_name(field).is_none()
    {
        return Err(SchemaError::rule(at, format!("the response has no field `{field}`")));
    }
    Ok(Binding { verb, template, body, response_body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_of_the_api_can_be_served() {
        let schema = Schema::load().unwrap();
        let create = schema.method("/nullspend.v1.KeyService/CreateKey").unwrap();
        assert_eq!(create.access, Access::Least { role: Role::Member, agent: false });
        assert_eq!(create.success_status, 201);
        assert!(create.idempotent && !create.ignore_unknown);
        assert_eq!(create.bindings[0].body, BodyRule::Whole);
        let policy = schema.method("/nullspend.v1.PolicyService/GetPolicy").unwrap();
        assert_eq!(policy.bindings.len(), 2);
        let health = schema.method("/nullspend.v1.HealthService/GetHealth").unwrap();
        assert_eq!(health.access, Access::Public);
    }

    #[test]
    fn a_method_without_access_stops_the_start() {
        // Passing through prost's typed form drops every custom option.
        let mut set = prost_types::FileDescriptorSet::default();
        let pool = DescriptorPool::decode(nullspend_proto::DESCRIPTORS).unwrap();
        for file in pool.files() {
            let mut proto: prost_types::FileDescriptorProto =
                prost::Message::decode(file.encode_to_vec().as_slice()).unwrap();
            proto.source_code_info = None;
            set.file.push(proto);
        }
        let error = Schema::from_descriptors(&prost::Message::encode_to_vec(&set)).unwrap_err();
        assert!(error.to_string().contains("`access` option"), "{error}");
    }
}
