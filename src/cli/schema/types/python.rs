//! Python: `Literal` and `TypedDict`, checked by type checkers and harmless at run time.

use cedargate_policy::schema::{AttrType, Field, RecordType};

use super::{Contract, MARK, identifier, quoted};

const FORMS: &str = "\
from typing import Any, Final, Literal, NotRequired, TypedDict

# A reference to an entity: {\"__entity\": {\"type\": …, \"id\": …}}.
Ref = TypedDict(\"Ref\", {\"__entity\": \"RefTo\"})


class RefTo(TypedDict):
    type: str
    id: str


# A value that Cedar makes of a text, an address or a time: {\"__extn\": {\"fn\": …, \"arg\": …}}.
Extension = TypedDict(\"Extension\", {\"__extn\": \"ExtensionCall\"})


class ExtensionCall(TypedDict):
    fn: Literal[\"ip\", \"decimal\", \"datetime\", \"duration\"]
    arg: str
";

/// Declares named types for the records that it meets.
struct Declared {
    text: String,
}

pub(super) fn text(contract: &Contract) -> String {
    let mut text = format!("# {MARK}\n{FORMS}\n\nPORTAL: Final = {}\n", quoted(&contract.portal));
    let names = contract.actions.keys().map(String::as_str);
    text.push_str(&literal("Action", "ACTIONS", names));
    text.push_str(&literal("ActionGroup", "GROUPS", contract.groups.iter().map(String::as_str)));
    let types: Vec<String> = contract.resource_types().into_iter().map(ToString::to_string).collect();
    text.push_str(&literal("ResourceType", "RESOURCE_TYPES", types.iter().map(String::as_str)));
    text.push_str(&literal("Flag", "FLAGS", contract.flags.keys().map(String::as_str)));
    let mut declared = Declared { text: String::new() };
    declared.record("Flags", &contract.flag_record());
    for (ty, attrs) in &contract.entities {
        declared.record(&format!("{}Attrs", identifier(ty)), attrs);
    }
    let contexts = contract.contexts();
    for (number, (context, _)) in contexts.iter().enumerate() {
        declared.record(&format!("Context{number}"), context);
    }
    text.push_str(&declared.text);
    text.push_str(
        "\n# The types of the resources that an action applies to.\nRESOURCES: Final[dict[str, tuple[str, ...]]] = {\n",
    );
    for (name, action) in &contract.actions {
        let types: String = action
            .resources
            .iter()
            .map(|ty| format!("{}, ", quoted(&ty.to_string())))
            .collect();
        text.push_str(&format!("    {}: ({}),\n", quoted(name), types.trim_end_matches(' ')));
    }
    text.push_str("}\n# The context of an action. The gate fills its own facts; a question may leave them out.\nCONTEXTS: Final[dict[str, Any]] = {\n");
    for name in contract.actions.keys() {
        let number = contexts
            .iter()
            .position(|(_, names)| names.contains(&name.as_str()))
            .unwrap_or_default();
        text.push_str(&format!("    {}: Context{number},\n", quoted(name)));
    }
    text.push_str("}\n");
    text
}

/// A type of the members, and a tuple of them. `Literal` must not be empty.
fn literal<'a>(name: &str, list: &str, members: impl Iterator<Item = &'a str>) -> String {
    let members: Vec<String> = members.map(quoted).collect();
    let ty = match members.as_slice() {
        [] => "str".to_owned(),
        members => format!("Literal[{}]", members.join(", ")),
    };
    let tuple: String = members.iter().map(|member| format!("{member}, ")).collect();
    format!(
        "\n{name} = {ty}\n{list}: Final[tuple[{name}, ...]] = ({})\n",
        tuple.trim_end_matches(' ')
    )
}

impl Declared {
    fn record(&mut self, name: &str, record: &RecordType) {
        let fields: Vec<String> = record
            .fields
            .iter()
            .map(|(key, field)| self.field(name, key, field))
            .collect();
        self.text.push_str(&format!(
            "\n{name} = TypedDict({}, {{{}}})\n",
            quoted(name),
            fields.join(", ")
        ));
    }

    fn field(&mut self, owner: &str, key: &str, field: &Field) -> String {
        let value = self.value(&format!("{owner}_{}", word(key)), &field.ty);
        let value = if field.required {
            value
        } else {
            format!("NotRequired[{value}]")
        };
        format!("{}: {value}", quoted(key))
    }

    fn value(&mut self, name: &str, ty: &AttrType) -> String {
        match ty {
            AttrType::String => "str".to_owned(),
            AttrType::Long => "int".to_owned(),
            AttrType::Bool => "bool".to_owned(),
            AttrType::Entity(_) => "Ref".to_owned(),
            AttrType::Set(element) => format!("list[{}]", self.value(name, element)),
            AttrType::Record(fields) => {
                self.record(name, fields);
                name.to_owned()
            }
            AttrType::Ip | AttrType::Decimal | AttrType::Datetime | AttrType::Duration => "Extension".to_owned(),
        }
    }
}

/// The letters of a key that a name may have.
fn word(key: &str) -> String {
    key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}
