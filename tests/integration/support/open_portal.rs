//! The portal that most tests use: every authenticated caller may do everything, and `assets` is public.

use super::Setup;

/// Schema and policy of one portal `p` at `/portal/p` where every authenticated caller may do everything.
pub const OPEN_SCHEMA: &str = "entity Tenant; entity Role in [Role]; entity Portal; entity Path in [Path, Portal];
entity User in [Role, Tenant] = { email?: String };
action GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS appliesTo { principal: [User], resource: [Path], context: {} };";
pub const OPEN_POLICY: &str = "@id(\"everybody\") permit (principal, action, resource);";
/// A page of the open portal.
pub const PAGE: &str = "/portal/p/page";

pub fn open_portal() -> Setup {
    Setup::portal(OPEN_SCHEMA, OPEN_POLICY).file("policies/p/portal.yaml", "public: [ \"GET /portal/p/assets/**\" ]\n")
}
