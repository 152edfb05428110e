//! Reads the values of oauth2-proxy's Helm chart, and manifests that hold its TOML file in a text block.
//!
//! The values may stand below another member (`oauth2-proxy:` of a chart around it, `spec.values` of a HelmRelease), in
//! a text (`helm.values` of an Argo CD application), or as its `helm.parameters`. As in the program that the chart
//! starts, a variable goes before the file and a flag before both.

use serde_json::{Map, Value, json};

use super::alpha::{self, texts};
use super::settings::{Setting, Settings};
use super::{Remarks, Weight};

/// Members of `config` that only this chart has, in the order of their use.
const CONFIG: [&str; 7] = [
    "configFile",
    "clientID",
    "clientSecret",
    "cookieSecret",
    "existingSecret",
    "existingConfig",
    "cookieName",
];

/// Members of the values, and the settings that they are.
const VARIABLES: &[(&str, &str)] = &[
    ("/config/clientID", "client_id"),
    ("/config/clientSecret", "client_secret"),
    ("/config/cookieSecret", "cookie_secret"),
    ("/config/cookieName", "cookie_name"),
    ("/config/emailDomains", "email_domains"),
    ("/config/google/adminEmail", "google_admin_email"),
    ("/config/google/groups", "google_groups"),
    ("/sessionStorage/type", "session_store_type"),
    ("/sessionStorage/redis/password", "redis_password"),
    ("/sessionStorage/redis/standalone/connectionUrl", "redis_connection_url"),
    (
        "/sessionStorage/redis/cluster/connectionUrls",
        "redis_cluster_connection_urls",
    ),
    (
        "/sessionStorage/redis/sentinel/connectionUrls",
        "redis_sentinel_connection_urls",
    ),
    ("/sessionStorage/redis/sentinel/masterName", "redis_sentinel_master_name"),
    ("/sessionStorage/redis/sentinel/password", "redis_sentinel_password"),
];

/// Depth of members and texts that are searched.
const DEPTH_MAX: usize = 32;

/// `None`: the text holds neither values of the chart nor a file in a text block.
///
/// # Errors
/// It holds several of them, or one that cannot be read. No value is quoted.
pub(super) fn read(text: &str, remarks: &mut Remarks) -> Result<Option<Settings>, String> {
    let mut found = Found::default();
    for document in documents(text) {
        if let Ok(value) = serde_saphyr::from_str::<Value>(&document) {
            found.search("", &value, DEPTH_MAX);
        }
    }
    let mut reader = Reader { text, remarks };
    match (found.only_values()?, found.files.as_slice()) {
        (Some(values), _) => reader.values(&values).map(Some),
        (None, []) => Ok(None),
        (None, [file]) => {
            let mut settings = reader.file(file)?;
            // the manifest's own flags and variables
            settings.overlay(Settings::from_lines(text));
            Ok(Some(settings))
        }
        (None, _several) => Err("it holds several configuration files; import one at a time".to_owned()),
    }
}

/// The documents of a YAML text.
fn documents(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in text.lines() {
        match (line.trim_end() == "---", documents.last_mut()) {
            (true, _) | (false, None) => documents.push(String::new()),
            (false, Some(last)) => {
                last.push_str(line);
                last.push('\n');
            }
        }
    }
    documents
}

#[derive(Default)]
struct Found {
    values: Vec<FoundValues>,
    /// Texts of TOML files.
    files: Vec<String>,
}

struct FoundValues {
    values: Value,
    /// True if the member that holds them is named after the chart.
    is_named: bool,
}

impl Found {
    fn search(&mut self, name: &str, value: &Value, depth: usize) {
        let Some(depth) = depth.checked_sub(1) else { return };
        let is_named = name.to_ascii_lowercase().replace('_', "-").contains("oauth2-proxy");
        match value {
            Value::Object(members) if is_values(members) => self.values.push(FoundValues {
                values: value.clone(),
                is_named,
            }),
            Value::Object(members) => {
                if let Some(values) = members.get("parameters").and_then(of_parameters) {
                    self.values.push(FoundValues { values, is_named });
                }
                for (name, value) in members {
                    self.search(name, value, depth);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.search(name, item, depth)),
            Value::String(text) if name.ends_with(".cfg") || name.ends_with(".toml") => self.files.push(text.clone()),
            Value::String(text) if ["values", "valuesContent"].contains(&name) => {
                if let Ok(value) = serde_saphyr::from_str::<Value>(text) {
                    self.search(name, &value, depth);
                }
            }
            _ => {}
        }
    }

    /// The values that are named after the chart, else the only ones.
    fn only_values(&self) -> Result<Option<Value>, String> {
        let named: Vec<&FoundValues> = self.values.iter().filter(|values| values.is_named).collect();
        let all = if named.is_empty() {
            self.values.iter().collect()
        } else {
            named
        };
        match all.as_slice() {
            [] => Ok(None),
            [only] => Ok(Some(only.values.clone())),
            _ => Err("it holds the values of several charts; import one at a time".to_owned()),
        }
    }
}

fn is_values(members: &Map<String, Value>) -> bool {
    let has_arguments = members
        .get("extraArgs")
        .is_some_and(|arguments| arguments.is_object() || arguments.is_array());
    let config = members.get("config").and_then(Value::as_object);
    has_arguments || config.is_some_and(|config| CONFIG.iter().any(|name| config.contains_key(*name)))
}

/// The values that the parameters `extraArgs.…` and `config.…` of Argo CD set; `None` without one.
fn of_parameters(parameters: &Value) -> Option<Value> {
    let mut sections: Map<String, Value> = Map::new();
    for parameter in parameters.as_array()? {
        let name = parameter.get("name").and_then(Value::as_str)?;
        let value = parameter.get("value").cloned().unwrap_or_default();
        let found = ["extraArgs", "config"]
            .iter()
            .find_map(|section| Some((*section, name.strip_prefix(section)?.strip_prefix('.')?)));
        if let Some((section, member)) = found
            && let Some(members) = sections.entry(section).or_insert(json!({})).as_object_mut()
        {
            members.insert(member.to_owned(), value);
        }
    }
    (!sections.is_empty()).then_some(Value::Object(sections))
}

struct Reader<'a, 'r> {
    text: &'a str,
    remarks: &'r mut Remarks,
}

impl Reader<'_, '_> {
    fn values(&mut self, values: &Value) -> Result<Settings, String> {
        let mut settings = match values.pointer("/config/configFile").and_then(Value::as_str) {
            Some(file) if !file.trim().is_empty() => self.file(file)?,
            Some(_) | None => Settings::default(),
        };
        if values.pointer("/config/existingConfig").is_some_and(is_set) {
            self.remark(
                "config.existingConfig",
                "the file is in another object; import it, too, and join the two results",
            );
        }
        settings.overlay(self.variables(values));
        let alpha = ["/alphaConfig/configData", "/alphaConfig/configFile"];
        let alpha = alpha
            .iter()
            .filter_map(|path| values.pointer(path))
            .find(|value| is_set(value));
        if let Some(alpha) = alpha {
            let root = match alpha {
                Value::String(text) => serde_saphyr::from_str(text).unwrap_or_default(),
                other => other.clone(),
            };
            match alpha::read_value(&root, self.text, self.remarks) {
                Some(found) => settings.overlay(found),
                None => self.remark(
                    "alphaConfig",
                    "cannot be read; import that file, too, and join the two results",
                ),
            }
        }
        let arguments = self.arguments(values.get("extraArgs").unwrap_or(&Value::Null));
        settings.overlay(arguments);
        Ok(settings)
    }

    /// The settings of a TOML file in a text block, with the lines of the whole text.
    fn file(&mut self, file: &str) -> Result<Settings, String> {
        let mut settings = Settings::read(file, self.remarks).map_err(|why| format!("the configuration file in it: {why}"))?;
        let lines: Vec<&str> = file.lines().collect();
        for setting in settings.0.values_mut() {
            let own = setting.line.and_then(|line| lines.get(line.checked_sub(1)?));
            setting.line = own.and_then(|own| self.line_where(|line| line.trim() == own.trim()));
        }
        Ok(settings)
    }

    /// What the chart sets by variables, and by flags of its own.
    fn variables(&mut self, values: &Value) -> Settings {
        let mut settings = Settings::default();
        for (path, name) in VARIABLES {
            if let Some(value) = values.pointer(path).filter(|value| is_set(value)) {
                self.add(
                    &mut settings,
                    name,
                    path.trim_start_matches('/').replace('/', ".").as_str(),
                    texts(value),
                );
            }
        }
        let of_redis = values.pointer("/sessionStorage/redis/clientType").and_then(Value::as_str);
        for (kind, name) in [("cluster", "redis_use_cluster"), ("sentinel", "redis_use_sentinel")] {
            if of_redis == Some(kind) {
                self.add(
                    &mut settings,
                    name,
                    "sessionStorage.redis.clientType",
                    vec!["true".to_owned()],
                );
            }
        }
        for (section, name) in [
            ("authenticatedEmailsFile", "authenticated_emails_file"),
            ("htpasswdFile", "htpasswd_file"),
        ] {
            let is_on = values.get(section).and_then(|section| section.get("enabled"));
            if is_on == Some(&Value::Bool(true)) {
                self.add(&mut settings, name, section, vec![format!("of `{section}`")]);
            }
        }
        for variable in values.get("extraEnv").and_then(Value::as_array).into_iter().flatten() {
            let text = |name: &str| variable.get(name).filter(|value| is_set(value)).map(texts);
            if let (Some(names), Some(value)) = (text("name"), text("value"))
                && let Some(name) = names.first().and_then(|name| name.strip_prefix("OAUTH2_PROXY_"))
            {
                self.add(
                    &mut settings,
                    &name.to_ascii_lowercase(),
                    &format!("OAUTH2_PROXY_{name}"),
                    value,
                );
            }
        }
        settings
    }

    fn arguments(&mut self, arguments: &Value) -> Settings {
        let mut settings = Settings::default();
        match arguments {
            Value::Array(flags) => {
                let flags: Vec<String> = flags.iter().flat_map(texts).collect();
                settings.overlay(Settings::from_lines(&flags.join("\n")));
                for setting in settings.0.values_mut() {
                    let flag = setting.written.replace('_', "-");
                    setting.line = self.line_where(|line| line.contains(&flag));
                }
            }
            Value::Object(flags) => {
                for (flag, value) in flags {
                    let flag = flag.trim_start_matches('-');
                    let values = match value {
                        // a flag without a value
                        Value::Null => vec!["true".to_owned()],
                        value => texts(value),
                    };
                    self.add(&mut settings, &flag.replace('-', "_"), flag, values);
                    if *value == Value::Bool(false) {
                        let message = "without quotes the chart passes the flag without its `false`, which switches it on; \
                                       it is taken as off";
                        let setting = self.setting(flag);
                        self.remarks.of(Weight::Differs, &setting, message);
                    }
                }
            }
            _ => {}
        }
        settings
    }

    /// `written` is the member's path; its last part is looked for in the text.
    fn add(&mut self, settings: &mut Settings, name: &str, written: &str, values: Vec<String>) {
        let found = self.setting(written);
        let key = settings.add(name, values, found.line);
        if let Some(setting) = settings.0.get_mut(&key) {
            setting.written = found.written;
        }
    }

    fn setting(&self, written: &str) -> Setting {
        let last = written.rsplit('.').next().unwrap_or(written);
        Setting {
            written: written.to_owned(),
            line: self.line_where(|line| {
                let line = line.trim_start_matches([' ', '-', '"', '\'']);
                line.strip_prefix(last).is_some_and(|rest| rest.starts_with([':', '"', '\'']))
                    || line.trim_end().ends_with(&format!(".{last}"))
                    || line.trim_end().ends_with(&format!("name: {last}"))
            }),
            values: Vec::new(),
        }
    }

    fn remark(&mut self, written: &str, message: &str) {
        let setting = self.setting(written);
        self.remarks.of(Weight::Decide, &setting, message);
    }

    fn line_where(&self, is_it: impl Fn(&str) -> bool) -> Option<usize> {
        self.text.lines().position(is_it).map(|number| number + 1)
    }
}

/// True for a value that a chart would use.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
        Value::Bool(true) | Value::Number(_) => true,
    }
}
