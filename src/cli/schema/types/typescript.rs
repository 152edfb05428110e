//! TypeScript.

use cedargate_policy::schema::{AttrType, RecordType};

use super::{Contract, MARK, extension, identifier, quoted};

const FORMS: &str = "\
/** A reference to an entity, as a value of an attribute or of a context. */
export type Ref<Type extends string = string> = { readonly __entity: { readonly type: Type; readonly id: string } };
/** A value that Cedar makes of a text: an address, a decimal number, a time. */
export type Extension<Fn extends string> = { readonly __extn: { readonly fn: Fn; readonly arg: string } };
";

pub(super) fn text(contract: &Contract) -> String {
    let mut text = format!(
        "// {MARK}\n\n{FORMS}\nexport const portal = {};\n\n",
        quoted(&contract.portal)
    );
    let names = contract.actions.keys().map(String::as_str);
    text.push_str(&union("actions", "Action", names));
    text.push_str(&union("groups", "ActionGroup", contract.groups.iter().map(String::as_str)));
    let types: Vec<String> = contract.resource_types().into_iter().map(ToString::to_string).collect();
    text.push_str(&union("resourceTypes", "ResourceType", types.iter().map(String::as_str)));
    text.push_str(&union("flags", "Flag", contract.flags.keys().map(String::as_str)));
    text.push_str(&flags(contract));
    for (ty, attrs) in &contract.entities {
        text.push_str(&format!("export type {}Attrs = {};\n", identifier(ty), record(attrs, 0)));
    }
    text.push_str("\n/** The attributes of each entity type. */\nexport interface Attrs {\n");
    for ty in contract.entities.keys() {
        text.push_str(&format!("  {}: {}Attrs;\n", quoted(&ty.to_string()), identifier(ty)));
    }
    text.push_str("}\n\n/** The types of the resources that an action applies to. */\nexport interface Resources {\n");
    for (name, action) in &contract.actions {
        let types: Vec<String> = action.resources.iter().map(|ty| quoted(&ty.to_string())).collect();
        text.push_str(&format!("  {}: {};\n", quoted(name), types.join(" | ")));
    }
    text.push_str("}\n\n");
    let contexts = contract.contexts();
    for (number, (context, _)) in contexts.iter().enumerate() {
        text.push_str(&format!("type Context{number} = {};\n", record(context, 0)));
    }
    text.push_str("\n/** The context of an action. The gate fills its own facts; a question may leave them out. */\nexport interface Contexts {\n");
    for name in contract.actions.keys() {
        let number = contexts
            .iter()
            .position(|(_, names)| names.contains(&name.as_str()))
            .unwrap_or_default();
        text.push_str(&format!("  {}: Context{number};\n", quoted(name)));
    }
    text.push_str("}\n");
    text
}

/// The value of each flag.
fn flags(contract: &Contract) -> String {
    let record = match contract.flags.is_empty() {
        // `Record<string, never>` would have every text as its key
        true => "Record<never, never>".to_owned(),
        false => record(&contract.flag_record(), 0),
    };
    format!("/** The value of each flag, for every caller or for some. */\nexport type Flags = {record};\n\n")
}

/// A list of texts and the type of its members.
fn union<'a>(list: &str, name: &str, members: impl Iterator<Item = &'a str>) -> String {
    let members: Vec<String> = members.map(quoted).collect();
    format!(
        "export const {list} = [{}] as const;\nexport type {name} = (typeof {list})[number];\n\n",
        members.join(", ")
    )
}

fn record(record: &RecordType, depth: usize) -> String {
    if record.fields.is_empty() {
        return "Record<string, never>".to_owned();
    }
    let indent = "  ".repeat(depth + 1);
    let field = |(name, field): (&String, &cedargate_policy::schema::Field)| {
        let mark = if field.required { "" } else { "?" };
        format!("{indent}readonly {}{mark}: {};\n", quoted(name), value(&field.ty, depth + 1))
    };
    let fields: String = record.fields.iter().map(field).collect();
    format!("{{\n{fields}{}}}", "  ".repeat(depth))
}

fn value(ty: &AttrType, depth: usize) -> String {
    match ty {
        AttrType::String => "string".to_owned(),
        AttrType::Long => "number".to_owned(),
        AttrType::Bool => "boolean".to_owned(),
        AttrType::Entity(ty) => format!("Ref<{}>", quoted(&ty.to_string())),
        AttrType::Set(element) => format!("ReadonlyArray<{}>", value(element, depth)),
        AttrType::Record(fields) => record(fields, depth),
        other => format!("Extension<{}>", quoted(extension(other).unwrap_or_default())),
    }
}
