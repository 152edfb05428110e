//! Names and files that descriptions become.

use super::*;

/// Schema, portal.yaml, and what was left out.
fn outline_of(text: &str) -> [String; 3] {
    let api = OpenApi::parse(text).unwrap();
    let args = Args {
        file: PathBuf::from("api.yaml"),
        portal: PortalSlug::parse("shop").unwrap(),
        prefix: None,
        tenant: "acme".to_owned(),
        write: false,
        dir: PathBuf::from("."),
    };
    let (fragment, _) = SchemaFragment::from_cedarschema_str(SHARED_SCHEMA).unwrap();
    let shared = Shared::read(&fragment.to_json_value().unwrap());
    let outline = Outline::new(&args, &api, "api.yaml", "/portal/shop", shared);
    let [schema, portal, ..] = outline.files();
    [schema.text, portal.text, outline.left_out.join("\n")]
}

/// Action, type and id of each route.
fn routes(paths: &[&str]) -> Vec<String> {
    let paths: String = paths.iter().map(|path| format!("  '{path}': {{ get: {{}} }}\n")).collect();
    let [_, portal, _] = outline_of(&format!("openapi: 3.0.0\npaths:\n{paths}"));
    let route = |line: &str| Some(line.split_once("action: ")?.1.trim_end_matches(" } }").to_owned());
    portal.lines().filter_map(route).collect()
}

#[test]
fn a_resource_type_is_named_by_what_the_parameters_name() {
    for (path, action, ty, id) in [
        ("/orders", "getOrders", "Collection", "orders"),
        ("/", "get", "Collection", "/"),
        ("/orders/{orderId}", "getOrdersByOrderId", "Order", "{orderId}"),
        ("/orders/{id}/cancel", "getOrdersByIdCancel", "Order", "{id}"),
        ("/orders/{o}/items/{i}", "getOrdersByOItemsByI", "OrderItem", "{o}/{i}"),
        ("/repos/{owner}/{repo}", "getReposByOwnerByRepo", "Repo", "{owner}/{repo}"),
        ("/{team_id}/x", "getByTeamIdX", "Team", "{team_id}"),
        ("/companies/{c}", "getCompaniesByC", "Company", "{c}"),
        ("/addresses/{a}", "getAddressesByA", "Address", "{a}"),
        ("/files/{name}.{ext}", "getFilesByNameExt", "File", "{name_ext}"),
        ("/users/{id}", "getUsersById", "UserResource", "{id}"),
        ("/strings/{id}", "getStringsById", "StringResource", "{id}"),
        ("/7/{1}", "get7ByValue1", "Resource7", "{value_1}"),
    ] {
        let expected = format!("{action}, resource: {{ type: {ty}, id: \"{id}\"");
        assert_eq!(routes(&[path]), [expected], "{path}");
    }
}

#[test]
fn a_literal_is_written_as_the_gate_forwards_it() {
    let [_, portal, left_out] = outline_of("openapi: 3.0.0\npaths:\n  '/größe/a b/{id}': { get: { operationId: size } }\n");
    assert_eq!(left_out, "");
    assert!(portal.contains("\"GET /portal/shop/gr%C3%B6%C3%9Fe/a%20b/{id}\""), "{portal}");
}

#[test]
fn a_segment_that_is_more_or_less_than_a_parameter_has_a_remark() {
    for (path, part) in [
        ("/items/{id}:cancel", "every segment in the place of `{id}:cancel`"),
        ("/items.{format}", "every segment in the place of `items.{format}`"),
        ("/files/{path+}", "one segment in the place of `{path+}`"),
    ] {
        assert!(RoutePath::remark(path).unwrap().contains(part), "{path}");
    }
    assert_eq!(RoutePath::remark("/items/{id}/parts/{part}"), None);
}

#[test]
fn one_type_never_stands_for_two_shapes_of_ids() {
    let found = routes(&["/items/{id}", "/item/{id}", "/items/{a}/{b}", "/v2/items/{id}"]);
    let types: Vec<&str> = found
        .iter()
        .filter_map(|it| it.split("type: ").nth(1)?.split(',').next())
        .collect();
    assert_eq!(types, ["Item", "ItemResource", "ItemResource3", "Item"]);
}

#[test]
fn the_schema_has_groups_and_the_shared_facts_and_names_do_not_collide() {
    let [schema, portal, left_out] = outline_of(
        "openapi: 3.0.0\ninfo: { title: \"My \\\"shop\\\"\" }\npaths:\n  /orders/{id}:\n    get: { operationId: view order, tags: [orders, read] }\n    \
         post: { operationId: GET, tags: [orders] }\n    delete: { operationId: view order, security: [{}] }\n  \
         /orders/{other}:\n    get: {}\n  /a%2Fb:\n    get: {}\n  /x?y=1:\n    get: {}\n",
    );
    assert!(schema.contains("entity Order;    // id: {id}\n"), "{schema}");
    assert!(schema.contains("action orders, \"read operations\";\n"), "{schema}");
    assert!(
        schema.contains(
            "action \"view order\" in [\"read operations\", orders, read] appliesTo { principal: [User], resource: [Order], \
             context: Facts };\n"
        ),
        "{schema}"
    );
    assert!(schema.contains("action postOrdersById in [orders, write]"), "{schema}");
    assert!(schema.contains("action deleteOrdersById in [write]"), "{schema}");
    assert!(portal.contains("title: \"My \\\"shop\\\"\"\n"), "{portal}");
    assert!(
        portal.contains("# public:\n#   - \"DELETE /portal/shop/orders/{id}\"\n"),
        "{portal}"
    );
    let reasons: Vec<&str> = left_out.lines().filter_map(|line| line.split("`: ").next()).collect();
    assert_eq!(reasons, ["`GET /x?y=1", "`GET /orders/{other}", "`GET /a%2Fb"], "{left_out}");
    let parsed = SchemaFragment::from_cedarschema_str(&format!("{SHARED_SCHEMA}\n{schema}"));
    assert!(parsed.is_ok(), "{:?}", parsed.err());
}

#[test]
fn hostile_names_stay_inside_their_quotes() {
    let hostile = r##"{"openapi": "3.0.0", "info": {"title": "a\n evil: 1"}, "paths": {
        "/a\"b/{x}": {"get": {"operationId": "q\"; permit(principal,action,resource);//", "tags": ["t\\\"\n"]}},
        "/ok/{x}": {"get": {"operationId": "line\nbreak\u2028", "tags": ["#"]}}}}"##;
    let [schema, portal, _] = outline_of(hostile);
    let parsed = SchemaFragment::from_cedarschema_str(&format!("{SHARED_SCHEMA}\n{schema}"));
    assert!(parsed.is_ok(), "{:?}", parsed.err());
    let file: Value = serde_saphyr::from_str(&portal).unwrap();
    assert_eq!(
        file.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["title", "routes"],
        "{portal}"
    );
}
