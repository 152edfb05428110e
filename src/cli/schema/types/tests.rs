//! The generated files say what the schema says.

use super::*;

#[test]
fn names_and_values_have_the_form_that_the_gate_takes() {
    let text = r#"
        namespace Shop {
            entity User; entity Tenant;
            entity Order = { "owner": User, total?: Long, "the \"note\"": String, at: { when: datetime, ips: Set<ipaddr> } };
            action read;
            action view in [read] appliesTo { principal: [User], resource: [Order], context: { ok: Bool } };
            action "odd name" appliesTo { principal: [User], resource: [Order, Tenant], context: { ok: Bool } };
        }"#;
    let (schema, _) = cedar_policy::Schema::from_cedarschema_str(text).unwrap();
    let model = SchemaModel::new(schema, text, None).unwrap();
    let flags = BTreeMap::from([
        ("beta".to_owned(), AttrType::Bool),
        ("seats".to_owned(), AttrType::Long),
        ("theme".to_owned(), AttrType::String),
    ]);
    let contract = Contract::new("shop", &model, flags);
    let ts = typescript::text(&contract);
    for expected in [
        r#"export const actions = ["Shop::Action::\"odd name\"", "Shop::Action::\"view\""] as const;"#,
        r#"export const groups = ["Shop::Action::\"read\""] as const;"#,
        r#"export const flags = ["beta", "seats", "theme"] as const;"#,
        "export type Flags = {\n  readonly \"beta\": boolean;\n  readonly \"seats\": number;\n  readonly \"theme\": string;\n};\n",
        "export type Shop_OrderAttrs = {\n  readonly \"at\": {\n    readonly \"ips\": ReadonlyArray<Extension<\"ip\">>;\n",
        "  readonly \"owner\": Ref<\"Shop::User\">;\n",
        "  readonly \"the \\\"note\\\"\": string;\n  readonly \"total\"?: number;\n};\n",
        r#"  "Shop::Action::\"odd name\"": "Shop::Order" | "Shop::Tenant";"#,
        "type Context0 = {\n  readonly \"ok\": boolean;\n};\n",
        "  \"Shop::Action::\\\"view\\\"\": Context0;\n",
    ] {
        assert!(ts.contains(expected), "{expected}\n{ts}");
    }
    let py = python::text(&contract);
    for expected in [
        r#"Action = Literal["Shop::Action::\"odd name\"", "Shop::Action::\"view\""]"#,
        r#"Shop_OrderAttrs_at = TypedDict("Shop_OrderAttrs_at", {"ips": list[Extension], "when": Extension})"#,
        r#""owner": Ref, "the \"note\"": str, "total": NotRequired[int]})"#,
        r#"Flags = TypedDict("Flags", {"beta": bool, "seats": int, "theme": str})"#,
        r#"    "Shop::Action::\"view\"": ("Shop::Order",),"#,
    ] {
        assert!(py.contains(expected), "{expected}\n{py}");
    }
}
