//! What backends share that speak HTTP to a platform: verified TLS, bounded answers, credentials that calls brought, and
//! the tag by which a platform knows our runs and machines.

mod body;
mod credentials;
mod endpoint;
mod tag;

pub(crate) use body::{BodyProblem, read_bounded};
pub(crate) use credentials::Credentials;
pub(crate) use endpoint::{Endpoint, EndpointConfig};
pub(crate) use tag::{parse_tag, tag_of};

#[cfg(test)]
mod tests;
