//! A portal's schema, in the form by which the gate builds values.
//!
//! Cedar's own `Schema` validates; this model holds the parts that Cedar's interface does not show: the attributes of a
//! principal type and their types, and the fields that an action's context declares. Built once per revision from
//! Cedar's resolved JSON form; it decides nothing.

pub mod diff;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use cedar_policy::{EntityId, EntityTypeName, EntityUid, Schema, schema_str_to_json_with_resolved_types};
use rustc_hash::FxHashMap;
use serde_json::{Map, Value};

use crate::flags::FlagValue;
use crate::portal::path::{ancestors_of, is_spelled_canonically};

/// Deepest nesting of declared types; Cedar forbids recursive types, so only an absurd schema reaches it.
const TYPE_DEPTH_MAX: usize = 64;

/// A declared type.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AttrType {
    String,
    Long,
    Bool,
    Ip,
    Decimal,
    Datetime,
    Duration,
    Entity(EntityTypeName),
    Set(Box<AttrType>),
    Record(RecordType),
}

impl From<&FlagValue> for AttrType {
    fn from(value: &FlagValue) -> Self {
        match value {
            FlagValue::Bool(_) => Self::Bool,
            FlagValue::Long(_) => Self::Long,
            FlagValue::String(_) => Self::String,
        }
    }
}

impl fmt::Display for AttrType {
    /// As Cedar's schema syntax writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String => f.write_str("String"),
            Self::Long => f.write_str("Long"),
            Self::Bool => f.write_str("Bool"),
            Self::Ip => f.write_str("ipaddr"),
            Self::Decimal => f.write_str("decimal"),
            Self::Datetime => f.write_str("datetime"),
            Self::Duration => f.write_str("duration"),
            Self::Entity(ty) => write!(f, "{ty}"),
            Self::Set(element) => write!(f, "Set<{element}>"),
            Self::Record(_) => f.write_str("{ … }"),
        }
    }
}

/// The fields of a record, an entity type or a context.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RecordType {
    pub fields: BTreeMap<String, Field>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Field {
    pub ty: AttrType,
    pub required: bool,
}

/// One action: its context and the types it applies to.
#[derive(Clone, Debug, Default)]
pub struct ActionModel {
    pub context: RecordType,
    pub principals: BTreeSet<EntityTypeName>,
    pub resources: BTreeSet<EntityTypeName>,
    /// Every group the action is in, directly or not.
    pub ancestors: Vec<EntityUid>,
}

/// One entity type: its attributes, and which types its members may be in.
#[derive(Clone, Debug, Default)]
pub struct EntityModel {
    pub attrs: RecordType,
    pub member_of: BTreeSet<EntityTypeName>,
    /// The only ids that exist, of an enumerated type.
    pub enumerated: Option<Vec<EntityId>>,
}

impl EntityModel {
    pub fn is_enum(&self) -> bool {
        self.enumerated.is_some()
    }
}

/// A portal's schema: Cedar's `Schema`, and this file's model of it.
pub struct SchemaModel {
    pub cedar: Schema,
    entities: FxHashMap<EntityTypeName, EntityModel>,
    actions: FxHashMap<EntityUid, ActionModel>,
    /// Namespace of the types and actions that the gate itself names; empty: none.
    namespace: String,
    names: DeclaredNames,
    /// All namespaces, if there are several and `portal.yaml` names none; else empty.
    pub ambiguous: Vec<String>,
    /// Every type that an action has for principals, and `User`.
    principal_types: BTreeSet<EntityTypeName>,
}

/// The usual spellings of declared names. Finding a name by Cedar's parser costs more than a decision.
#[derive(Default)]
struct DeclaredNames {
    types: FxHashMap<String, EntityTypeName>,
    actions: FxHashMap<String, EntityUid>,
    /// Types by their full names.
    full_types: FxHashMap<Arc<str>, EntityTypeName>,
    /// Declared names as records show them.
    type_texts: FxHashMap<EntityTypeName, Arc<str>>,
    action_texts: FxHashMap<EntityUid, Arc<str>>,
    /// `Action` in the portal's namespace.
    action_type: Option<EntityTypeName>,
}

/// The schema cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("{0}")]
    Cedar(String),
    #[error("the schema's form is not understood at `{0}`; report this as a bug")]
    Shape(String),
    #[error("namespace `{0}` is not in the schema; name one of: {1}")]
    NamespaceUnknown(String, String),
}

impl SchemaModel {
    /// `text` is the portal's whole schema in Cedar syntax; `namespace` is what `portal.yaml` names.
    pub fn new(cedar: Schema, text: &str, namespace: Option<&str>) -> Result<Self, SchemaError> {
        let (resolved, _) = schema_str_to_json_with_resolved_types(text).map_err(|e| SchemaError::Cedar(e.to_string()))?;
        let root = resolved.as_object().ok_or_else(|| SchemaError::Shape(String::new()))?;
        let (namespace, ambiguous) = choose_namespace(root, namespace)?;
        let mut model = Self {
            entities: FxHashMap::default(),
            actions: FxHashMap::default(),
            namespace,
            cedar,
            names: DeclaredNames::default(),
            ambiguous,
            principal_types: BTreeSet::new(),
        };
        for (name, body) in root {
            model.add_namespace(Resolver { root }, name, body)?;
        }
        model.add_action_ancestors()?;
        model.names = model.spellings();
        let of_actions = model.actions.values().flat_map(|action| action.principals.iter().cloned());
        model.principal_types = of_actions.chain(model.resolve_type("User")).collect();
        Ok(model)
    }

    /// Every type that an action has for principals, and `User`.
    pub fn principal_types(&self) -> &BTreeSet<EntityTypeName> {
        &self.principal_types
    }

    pub fn entity(&self, ty: &EntityTypeName) -> Option<&EntityModel> {
        self.entities.get(ty)
    }

    pub fn entities(&self) -> impl Iterator<Item = (&EntityTypeName, &EntityModel)> {
        self.entities.iter()
    }

    pub fn action(&self, uid: &EntityUid) -> Option<&ActionModel> {
        self.actions.get(uid)
    }

    pub fn actions(&self) -> impl Iterator<Item = (&EntityUid, &ActionModel)> {
        self.actions.iter()
    }

    /// True if the schema lets this principal type do this action on this resource type.
    pub fn applies(&self, principal: &EntityTypeName, action: &EntityUid, resource: &EntityTypeName) -> bool {
        self.actions
            .get(action)
            .is_some_and(|a| a.principals.contains(principal) && a.resources.contains(resource))
    }

    /// A type named in full; a name that is not declared so is taken as bare.
    pub fn declared_type(&self, ty: &EntityTypeName) -> Option<EntityTypeName> {
        if self.entities.contains_key(ty) {
            return Some(ty.clone());
        }
        self.resolve_type(&ty.to_string())
    }

    /// A type as a user writes it: full, or bare and then looked up in the portal's namespace before the empty one.
    pub fn resolve_type(&self, name: &str) -> Option<EntityTypeName> {
        let known = self.names.types.get(name).cloned();
        known.or_else(|| self.search_type(name))
    }

    /// A declared type by its full name, and by nothing else.
    pub fn type_in_full(&self, name: &str) -> Option<&EntityTypeName> {
        self.names.full_types.get(name)
    }

    fn search_type(&self, name: &str) -> Option<EntityTypeName> {
        let candidates = [self.qualified(name), name.to_owned()];
        candidates
            .iter()
            .filter_map(|n| EntityTypeName::from_str(n).ok())
            .find(|t| self.entities.contains_key(t))
    }

    /// An action as a user writes it: `viewOrder`, `Action::"viewOrder"` or `NS::Action::"viewOrder"`; `None` if it is
    /// not declared.
    pub fn resolve_action(&self, name: &str) -> Option<EntityUid> {
        let known = self.names.actions.get(name).cloned();
        // every declared id is known by itself; only a quoted id can be spelt otherwise
        known.or_else(|| name.contains('"').then(|| self.search_action(name)).flatten())
    }

    /// The shortest name by which `resolve_action` finds this action.
    pub fn action_name(&self, action: &EntityUid) -> String {
        let bare = action.id().unescaped();
        match self.resolve_action(bare).as_ref() == Some(action) {
            true => bare.to_owned(),
            false => action.to_string(),
        }
    }

    /// The given members that the type declares as attributes.
    pub fn attribute_members(&self, ty: &str, given: &Map<String, Value>) -> Option<Map<String, Value>> {
        let declared = &self.entity(&self.resolve_type(ty)?)?.attrs.fields;
        Some(only(given, |name| declared.contains_key(name)))
    }

    /// The given members that the action declares for its context.
    pub fn context_members(&self, action: &str, given: &Map<String, Value>) -> Option<Map<String, Value>> {
        let declared = &self.action(&self.resolve_action(action)?)?.context.fields;
        Some(only(given, |name| declared.contains_key(name)))
    }

    /// The given members that a record of the action's context declares.
    pub fn context_record(&self, action: &str, field: &str, given: &Map<String, Value>) -> Option<Map<String, Value>> {
        let context = &self.action(&self.resolve_action(action)?)?.context;
        let AttrType::Record(declared) = &context.fields.get(field)?.ty else {
            return None;
        };
        Some(only(given, |name| declared.fields.contains_key(name)))
    }

    /// The names of the actions that resources of this type can have, in order.
    pub fn actions_on(&self, resource: &EntityTypeName) -> Vec<String> {
        let of_type = self.actions.iter().filter(|(_, model)| model.resources.contains(resource));
        let mut names: Vec<String> = of_type.map(|(action, _)| self.action_name(action)).collect();
        names.sort_unstable();
        names
    }

    /// The shortest name by which `resolve_type` finds this type.
    pub fn type_name(&self, ty: &EntityTypeName) -> String {
        match self.resolve_type(ty.basename()).as_ref() == Some(ty) {
            true => ty.basename().to_owned(),
            false => ty.to_string(),
        }
    }

    fn search_action(&self, name: &str) -> Option<EntityUid> {
        if let Ok(uid) = EntityUid::from_str(name) {
            // as for types: a name without a namespace is looked up in the portal's as well
            let own = EntityTypeName::from_str(&self.qualified(&uid.type_name().to_string())).ok();
            let own = own.map(|ty| EntityUid::from_type_name_and_id(ty, uid.id().clone()));
            let mut uids = std::iter::once(uid).chain(own);
            return uids.find(|uid| self.actions.contains_key(uid));
        }
        let types = [self.qualified("Action"), "Action".to_owned()];
        let uids = types.iter().filter_map(|t| EntityTypeName::from_str(t).ok());
        uids.map(|t| EntityUid::from_type_name_and_id(t, EntityId::new(name)))
            .find(|u| self.actions.contains_key(u))
    }

    /// `Action::"<METHOD>"` in the namespace of the portal's HTTP actions, declared or not.
    pub fn method_action(&self, method: &str) -> Option<EntityUid> {
        self.resolve_action(method).or_else(|| {
            let ty = self.names.action_type.clone()?;
            Some(EntityUid::from_type_name_and_id(ty, EntityId::new(method)))
        })
    }

    /// Every spelling, with the name that a search for it finds.
    fn spellings(&self) -> DeclaredNames {
        let types = self.entities.keys().flat_map(|ty| [ty.to_string(), ty.basename().to_owned()]);
        let actions = self
            .actions
            .keys()
            .flat_map(|uid| [uid.to_string(), uid.id().unescaped().to_owned()]);
        DeclaredNames {
            types: types
                .filter_map(|name| Some((name.clone(), self.search_type(&name)?)))
                .collect(),
            actions: actions
                .filter_map(|name| Some((name.clone(), self.search_action(&name)?)))
                .collect(),
            full_types: self.entities.keys().map(|ty| (ty.to_string().into(), ty.clone())).collect(),
            type_texts: self.entities.keys().map(|ty| (ty.clone(), ty.to_string().into())).collect(),
            action_texts: self.actions.keys().map(|uid| (uid.clone(), uid.to_string().into())).collect(),
            action_type: EntityTypeName::from_str(&self.qualified("Action")).ok(),
        }
    }

    /// A type as records show it.
    pub fn type_text(&self, ty: &EntityTypeName) -> Arc<str> {
        let known = self.names.type_texts.get(ty).cloned();
        known.unwrap_or_else(|| ty.to_string().into())
    }

    /// An action as records show it.
    pub fn action_text(&self, action: &EntityUid) -> Arc<str> {
        let known = self.names.action_texts.get(action).cloned();
        known.unwrap_or_else(|| action.to_string().into())
    }

    fn qualified(&self, name: &str) -> String {
        if self.namespace.is_empty() || name.contains("::") {
            name.to_owned()
        } else {
            format!("{}::{name}", self.namespace)
        }
    }

    fn add_namespace(&mut self, resolver: Resolver<'_>, name: &str, body: &Value) -> Result<(), SchemaError> {
        for (bare, declared) in members(body, "entityTypes") {
            let ty = type_name(&qualify(name, bare))?;
            let shape = declared.get("shape");
            let attrs = shape.map_or_else(|| Ok(RecordType::default()), |s| resolver.record_of(name, s))?;
            let member_of = type_names(declared.get("memberOfTypes"))?;
            let enumerated = declared.get("enum").map(|ids| {
                let ids = ids.as_array().into_iter().flatten().filter_map(Value::as_str);
                ids.map(EntityId::new).collect()
            });
            let model = EntityModel {
                attrs,
                member_of,
                enumerated,
            };
            self.entities.insert(ty, model);
        }
        for (id, declared) in members(body, "actions") {
            let uid = EntityUid::from_type_name_and_id(type_name(&qualify(name, "Action"))?, EntityId::new(id));
            self.actions.insert(uid, resolver.action(name, declared)?);
        }
        Ok(())
    }

    fn add_action_ancestors(&mut self) -> Result<(), SchemaError> {
        let entities = self.cedar.action_entities().map_err(|e| SchemaError::Cedar(e.to_string()))?;
        for (uid, model) in &mut self.actions {
            model.ancestors = entities.ancestors(uid).map(|all| all.cloned().collect()).unwrap_or_default();
        }
        Ok(())
    }
}

/// Reads types out of Cedar's resolved JSON.
#[derive(Clone, Copy)]
struct Resolver<'a> {
    root: &'a Map<String, Value>,
}

impl Resolver<'_> {
    fn action(self, namespace: &str, declared: &Value) -> Result<ActionModel, SchemaError> {
        let Some(applies) = declared.get("appliesTo").filter(|a| !a.is_null()) else {
            return Ok(ActionModel::default());
        };
        let context = applies
            .get("context")
            .map_or_else(|| Ok(RecordType::default()), |c| self.record_of(namespace, c))?;
        Ok(ActionModel {
            context,
            principals: type_names(applies.get("principalTypes"))?,
            resources: type_names(applies.get("resourceTypes"))?,
            ancestors: Vec::new(),
        })
    }

    fn record_of(self, namespace: &str, value: &Value) -> Result<RecordType, SchemaError> {
        match self.ty(namespace, value, 0)? {
            AttrType::Record(record) => Ok(record),
            _ => Err(SchemaError::Shape(value.to_string())),
        }
    }

    fn ty(self, namespace: &str, value: &Value, depth: usize) -> Result<AttrType, SchemaError> {
        let shape = || SchemaError::Shape(value.to_string());
        if depth > TYPE_DEPTH_MAX {
            return Err(shape());
        }
        let name = value.get("type").and_then(Value::as_str).ok_or_else(shape)?;
        match name {
            "Set" => {
                let element = value.get("element").ok_or_else(shape)?;
                Ok(AttrType::Set(Box::new(self.ty(namespace, element, depth + 1)?)))
            }
            "Record" => self.record(namespace, value, depth),
            "Entity" => {
                let name = value.get("name").and_then(Value::as_str).ok_or_else(shape)?;
                Ok(AttrType::Entity(type_name(name)?))
            }
            "Extension" => builtin(value.get("name").and_then(Value::as_str).ok_or_else(shape)?).ok_or_else(shape),
            _ => self.named(namespace, name, depth).transpose().unwrap_or_else(|| Err(shape())),
        }
    }

    fn record(self, namespace: &str, value: &Value, depth: usize) -> Result<AttrType, SchemaError> {
        let mut fields = BTreeMap::new();
        for (name, declared) in members(value, "attributes") {
            let required = declared.get("required").and_then(Value::as_bool).unwrap_or(true);
            fields.insert(
                name.clone(),
                Field {
                    ty: self.ty(namespace, declared, depth + 1)?,
                    required,
                },
            );
        }
        Ok(AttrType::Record(RecordType { fields }))
    }

    /// A built-in, or a common type (which may shadow an extension's name, never a primitive's).
    fn named(self, namespace: &str, name: &str, depth: usize) -> Result<Option<AttrType>, SchemaError> {
        if let Some(plain) = name.strip_prefix("__cedar::") {
            return Ok(builtin(plain));
        }
        let (owner, bare) = name.rsplit_once("::").unwrap_or(("", name));
        for owner in [owner, namespace] {
            let common = self
                .root
                .get(owner)
                .and_then(|n| n.get("commonTypes"))
                .and_then(|c| c.get(bare));
            if let Some(common) = common {
                return self.ty(owner, common, depth + 1).map(Some);
            }
        }
        Ok(builtin(name))
    }
}

fn builtin(name: &str) -> Option<AttrType> {
    Some(match name {
        "String" => AttrType::String,
        "Long" => AttrType::Long,
        "Bool" | "Boolean" => AttrType::Bool,
        "ipaddr" => AttrType::Ip,
        "decimal" => AttrType::Decimal,
        "datetime" => AttrType::Datetime,
        "duration" => AttrType::Duration,
        _ => return None,
    })
}

/// The namespace of the gate's own names. If it is ambiguous: an empty namespace, and the list of all namespaces.
fn choose_namespace(root: &Map<String, Value>, named: Option<&str>) -> Result<(String, Vec<String>), SchemaError> {
    let all: Vec<String> = root.keys().filter(|k| !k.is_empty()).cloned().collect();
    match named {
        Some(name) if root.contains_key(name) => Ok((name.to_owned(), Vec::new())),
        Some(name) => Err(SchemaError::NamespaceUnknown(name.to_owned(), all.join(", "))),
        None if root.get("").is_some_and(has_actions) => Ok((String::new(), Vec::new())),
        None => match all.as_slice() {
            [only] => Ok((only.clone(), Vec::new())),
            [] => Ok((String::new(), Vec::new())),
            _ => Ok((String::new(), all)),
        },
    }
}

fn has_actions(namespace: &Value) -> bool {
    members(namespace, "actions").next().is_some()
}

fn only(members: &Map<String, Value>, is_kept: impl Fn(&str) -> bool) -> Map<String, Value> {
    let kept = members.iter().filter(|(name, _)| is_kept(name));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn members<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    value.get(key).and_then(Value::as_object).into_iter().flatten()
}

fn qualify(namespace: &str, name: &str) -> String {
    if namespace.is_empty() {
        name.to_owned()
    } else {
        format!("{namespace}::{name}")
    }
}

fn type_name(text: &str) -> Result<EntityTypeName, SchemaError> {
    EntityTypeName::from_str(text).map_err(|_why| SchemaError::Shape(text.to_owned()))
}

fn type_names(list: Option<&Value>) -> Result<BTreeSet<EntityTypeName>, SchemaError> {
    let items = list.and_then(Value::as_array).into_iter().flatten();
    items
        .map(|v| {
            v.as_str()
                .ok_or_else(|| SchemaError::Shape(v.to_string()))
                .and_then(type_name)
        })
        .collect()
}

/// The types that the gate itself names; `None` for a type that the schema does not declare.
#[derive(Clone, Debug, Default)]
pub struct TypeNames {
    pub role: Option<EntityTypeName>,
    pub tenant: Option<EntityTypeName>,
    pub path: Option<EntityTypeName>,
    /// `Portal::"<slug>"`.
    pub portal: Option<EntityUid>,
}

impl TypeNames {
    pub fn new(schema: &SchemaModel, slug: &str) -> Self {
        let portal = schema
            .resolve_type("Portal")
            .map(|ty| EntityUid::from_type_name_and_id(ty, EntityId::new(slug)));
        Self {
            role: schema.resolve_type("Role"),
            tenant: schema.resolve_type("Tenant"),
            path: schema.resolve_type("Path"),
            portal,
        }
    }

    /// True if an entity is a path of the HTTP tree.
    pub fn is_path(&self, uid: &EntityUid) -> bool {
        self.path.as_ref() == Some(uid.type_name())
    }

    /// True for an entity of the type of paths that is no path as the gate spells it. SECURITY: `/open/../secret` is
    /// below `/open` by its text and at `/secret` for the app.
    pub fn is_no_path(&self, uid: &EntityUid) -> bool {
        self.is_path(uid) && !is_spelled_canonically(uid.id().unescaped())
    }

    /// The first of these entities that is another portal than the own one.
    pub fn other_portal<'a>(&self, above: &'a [EntityUid]) -> Option<&'a EntityUid> {
        let own = self.portal.as_ref()?;
        above.iter().find(|uid| uid.type_name() == own.type_name() && *uid != own)
    }

    /// The ancestors of a path by its id alone: every parent path up to `/`, and the portal.
    pub fn parents_of_path(&self, uid: &EntityUid) -> Vec<EntityUid> {
        let ty = uid.type_name();
        let parents = ancestors_of(uid.id().unescaped());
        let parents = parents.map(|p| EntityUid::from_type_name_and_id(ty.clone(), EntityId::new(p)));
        parents.chain(self.portal.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn model(text: &str, namespace: Option<&str>) -> Result<SchemaModel, SchemaError> {
        let (schema, _) = Schema::from_cedarschema_str(text).unwrap();
        SchemaModel::new(schema, text, namespace)
    }

    const SHOP: &str = r#"
        namespace Shop {
            type Addr = { street: String, zip?: Long };
            entity Role;
            entity User in [Role] { addr?: Addr, ips: Set<ipaddr>, boss: User, since: datetime };
            type Ctx = { ip: ipaddr, auth?: { amr: Set<String> } };
            action view in [reads] appliesTo { principal: [User], resource: [User, Role], context: Ctx };
            action reads;
        }"#;

    #[test]
    fn a_known_spelling_leads_where_a_search_leads() {
        let text = r#"
            entity Guest; entity Solo; action ping, "Shop::Action::\"view\"" appliesTo { principal: Guest, resource: Solo };
            namespace Shop { entity User; entity Cart; action view, edit appliesTo { principal: User, resource: Cart }; }
            namespace Other { entity Cart; action edit, lost appliesTo { principal: Cart, resource: Cart }; }"#;
        let model = model(text, Some("Shop")).unwrap();
        let types = [
            "User",
            "Shop::User",
            "Solo",
            "Cart",
            "Other::Cart",
            "Shop :: Cart",
            "Nobody",
            "",
            "Shop::Solo",
        ];
        for name in types {
            assert_eq!(model.resolve_type(name), model.search_type(name), "{name}");
        }
        let quoted = r#"Shop::Action::"view""#;
        let actions = [
            "ping",
            "view",
            "edit",
            "lost",
            "PATCH",
            "",
            "Action",
            quoted,
            r#"Action::"view""#,
            r#"Other :: Action::"lost""#,
            r#"Action::"lost""#,
        ];
        for name in actions {
            assert_eq!(model.resolve_action(name), model.search_action(name), "{name}");
        }
        assert_eq!(model.resolve_type("User").unwrap().to_string(), "Shop::User");
        assert_eq!(model.resolve_action(quoted).unwrap().to_string(), quoted);
        assert_eq!(model.resolve_action("ping").unwrap().to_string(), r#"Action::"ping""#);
        assert!(model.resolve_action("lost").is_none());
        assert_eq!(model.method_action("PATCH").unwrap().to_string(), r#"Shop::Action::"PATCH""#);
    }

    #[test]
    fn attribute_types_come_resolved_through_common_types() {
        let model = model(SHOP, None).unwrap();
        let user = model.entity(&model.resolve_type("User").unwrap()).unwrap();
        assert_eq!(user.attrs.fields["since"].ty, AttrType::Datetime);
        assert_eq!(user.attrs.fields["ips"].ty, AttrType::Set(Box::new(AttrType::Ip)));
        assert!(!user.attrs.fields["addr"].required);
        let AttrType::Record(addr) = &user.attrs.fields["addr"].ty else {
            panic!()
        };
        assert_eq!(
            addr.fields["zip"],
            Field {
                ty: AttrType::Long,
                required: false
            }
        );
        assert_eq!(user.attrs.fields["boss"].ty, AttrType::Entity("Shop::User".parse().unwrap()));
        assert_eq!(user.member_of.len(), 1);
    }

    #[test]
    fn the_model_has_context_groups_and_types_of_each_action() {
        let model = model(SHOP, None).unwrap();
        let view = model.resolve_action("view").unwrap();
        assert_eq!(view.to_string(), "Shop::Action::\"view\"");
        let action = model.action(&view).unwrap();
        assert_eq!(action.context.fields["ip"].ty, AttrType::Ip);
        assert_eq!(action.ancestors, vec!["Shop::Action::\"reads\"".parse().unwrap()]);
        let user = model.resolve_type("User").unwrap();
        assert!(model.applies(&user, &view, &user));
        assert!(model.resolve_action("GET").is_none());
    }

    #[test]
    fn several_namespaces_need_a_choice() {
        let text = "namespace A { entity U; action a appliesTo {principal: U, resource: U}; } namespace B { entity V; }";
        let undecided = model(text, None).unwrap();
        assert_eq!(undecided.ambiguous, ["A", "B"]);
        assert!(undecided.resolve_action("a").is_none() && undecided.resolve_type("U").is_none());
        assert!(model(text, Some("A")).unwrap().resolve_type("U").is_some());
        assert!(matches!(model(text, Some("C")), Err(SchemaError::NamespaceUnknown(..))));
    }

    #[test]
    fn a_common_type_may_carry_an_extension_name() {
        let text = "type decimal = { a: String }; entity U { d: decimal, e: __cedar::decimal };";
        let model = model(text, None).unwrap();
        let user = model.entity(&"U".parse().unwrap()).unwrap();
        assert!(matches!(user.attrs.fields["d"].ty, AttrType::Record(_)));
        assert_eq!(user.attrs.fields["e"].ty, AttrType::Decimal);
    }
}
