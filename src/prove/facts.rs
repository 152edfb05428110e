//! The facts that every request of the gate has: a path is below the paths that its id names and below its portal, and
//! the context names the portal.
//!
//! The solver takes an entity for any text with any ancestors, so without these facts its examples would be paths below
//! `/a/b` and not below `/a`. They hold at every door, because the gate derives the ancestors of a path from its id
//! (`Rules::resource`) and fills the portal itself. Each is true of every request, so a proof that uses them stays a
//! proof.

use std::collections::BTreeSet;

use cedar_policy::{EntityId, EntityTypeName, EntityUid};
use cedargate_policy::portal::path::is_at_or_below;
use cedargate_policy::revision::Revision;

use serde_json::Value;

use super::clause::{Expression, attribute, literal, variable};

/// Facts of one question beyond which only their order is stated: pairs grow with the square.
const PATHS_MAX: usize = 40;
/// The fact of the context that names the portal.
const PORTAL: &str = "portal";

/// The ancestors of an entity that its id states.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum StatedAncestors {
    All,
    /// entities.json puts paths or portals below others, too.
    Some,
}

impl StatedAncestors {
    fn and(self, other: Self) -> Self {
        if self == Self::All { other } else { self }
    }
}

fn stated(revision: &Revision) -> StatedAncestors {
    let names = &revision.rules.names;
    let portal = names.portal.as_ref().map(EntityUid::type_name);
    let mut types = names.path.iter().chain(portal);
    match types.any(|ty| revision.rules.engine.store.has_ancestors(ty)) {
        true => StatedAncestors::Some,
        false => StatedAncestors::All,
    }
}

/// Two paths that policies name.
enum Pair {
    Below { low: EntityUid, high: EntityUid },
    Apart([EntityUid; 2]),
}

impl Pair {
    fn facts(&self, stated: StatedAncestors) -> Vec<Expression> {
        let resource = variable("resource");
        let is_in = |left: &Value, right: &EntityUid| Expression::is_in(left, &literal(right));
        match self {
            Self::Below { low, high } => {
                let mut facts = vec![
                    is_in(&resource, low).not().or(&is_in(&resource, high)),
                    is_in(&literal(low), high),
                ];
                facts.extend((stated == StatedAncestors::All).then(|| is_in(&literal(high), low).not()));
                facts
            }
            Self::Apart([one, other]) => vec![
                is_in(&resource, one).not().or(&is_in(&resource, other).not()),
                is_in(&literal(one), other).not(),
                is_in(&literal(other), one).not(),
            ],
        }
    }
}

/// The source of the facts.
pub(super) struct ProofFacts<'r> {
    slug: &'r str,
    revision: &'r Revision,
    path: Option<&'r EntityTypeName>,
    stated: StatedAncestors,
}

impl<'r> ProofFacts<'r> {
    pub fn of(slug: &'r str, revision: &'r Revision) -> Self {
        Self {
            slug,
            revision,
            path: revision.rules.names.path.as_ref(),
            stated: stated(revision),
        }
    }

    /// The facts that hold in another revision of the portal, too.
    pub fn and_of(self, other: &Revision) -> Self {
        Self {
            stated: self.stated.and(stated(other)),
            ..self
        }
    }

    pub fn is_path(&self, ty: &EntityTypeName) -> bool {
        self.path == Some(ty)
    }

    /// True if a path is not below the other one in any request, as their ids say.
    pub fn is_elsewhere(&self, path: &EntityUid, above: &EntityUid) -> bool {
        let are_paths = self.is_path(path.type_name()) && self.is_path(above.type_name());
        are_paths && self.stated == StatedAncestors::All && !is_at_or_below(path.id().unescaped(), above.id().unescaped())
    }

    /// The ancestors that the gate gives to a path.
    pub fn ancestors(&self, uid: &EntityUid) -> Vec<EntityUid> {
        self.revision.rules.path_ancestors(uid)
    }

    /// The portal's name, if the context of the action always has it.
    pub fn portal(&self, action: &EntityUid) -> Option<&str> {
        let context = &self.revision.rules.schema.action(action)?.context;
        let field = context.fields.get(PORTAL).filter(|field| field.required)?;
        (field.ty.to_string() == "String").then_some(self.slug)
    }

    /// The facts about the context.
    pub fn of_context(&self, action: &EntityUid) -> Option<Expression> {
        Some(Expression::is_text(&attribute("context", PORTAL), self.portal(action)?))
    }

    /// The facts about a resource that is a path, as far as these literals matter.
    pub fn of_path<'l>(&self, literals: impl IntoIterator<Item = &'l EntityUid>) -> Vec<Expression> {
        let names = &self.revision.rules.names;
        let portal = names.portal.as_ref();
        let mut paths: BTreeSet<&str> = BTreeSet::new();
        let mut portals: BTreeSet<&EntityUid> = BTreeSet::new();
        for uid in literals {
            if self.is_path(uid.type_name()) {
                paths.insert(uid.id().unescaped());
            } else if portal.is_some_and(|own| own.type_name() == uid.type_name()) {
                portals.insert(uid);
            }
        }
        let is_below = |uid: &EntityUid| Expression::is_in(&variable("resource"), &literal(uid));
        let mut facts = Vec::new();
        for uid in portals {
            match Some(uid) == portal {
                true => facts.push(is_below(uid)),
                false if self.stated == StatedAncestors::All => facts.push(is_below(uid).not()),
                false => {}
            }
        }
        let Some(ty) = self.path else { return facts };
        let entity = |id: &str| EntityUid::from_type_name_and_id(ty.clone(), EntityId::new(id));
        let states_all = paths.len() <= PATHS_MAX && self.stated == StatedAncestors::All;
        for (at, one) in paths.iter().enumerate() {
            for other in paths.iter().skip(at + 1) {
                let pair = match (is_at_or_below(other, one), is_at_or_below(one, other)) {
                    (true, _) => Pair::Below {
                        low: entity(other),
                        high: entity(one),
                    },
                    (_, true) => Pair::Below {
                        low: entity(one),
                        high: entity(other),
                    },
                    (false, false) if states_all => Pair::Apart([entity(one), entity(other)]),
                    (false, false) => continue,
                };
                facts.extend(pair.facts(self.stated));
            }
        }
        facts
    }
}
