//! Makes a configuration, policies and tests of oauth2-proxy's settings (`cedargate config import oauth2-proxy`).
//!
//! `settings` reads oauth2-proxy's own forms into names and values, `alpha` its newer file, `helm` the values of its
//! chart; `options` knows every name; `provider`, `serving` and `access` translate. Reads no file and no environment.
//!
//! SECURITY: no value of a secret gets into the result. A setting that let callers in, and that has no exact
//! counterpart, is narrowed or left out, never widened, and named.

mod access;
mod alpha;
mod helm;
mod options;
mod provider;
mod serving;
mod settings;
mod yaml;

#[cfg(test)]
mod tests;

use self::options::SettingValue;
use self::settings::Settings;

/// The translation of one configuration.
#[derive(Clone, Debug)]
pub struct Imported {
    /// `cedargate.yaml`.
    pub config: String,
    /// The policy tree beside it.
    pub files: Vec<ImportedFile>,
    pub remarks: Vec<Remark>,
}

#[derive(Clone, Debug)]
pub struct ImportedFile {
    /// Below the folder of `cedargate.yaml`.
    pub name: String,
    pub text: String,
}

/// A setting that the translation does not carry over as it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Remark {
    pub weight: Weight,
    /// The name as the file has it; empty: a setting that is missing.
    pub setting: String,
    /// From 1.
    pub line: Option<usize>,
    pub message: String,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Weight {
    /// Without it the gate does not do what oauth2-proxy did; the operator must decide.
    Decide,
    /// The gate does it in another way, or not at all.
    Differs,
    /// Nothing to do.
    Note,
}

/// Remarks in the making.
#[derive(Debug, Default)]
pub(crate) struct Remarks(Vec<Remark>);

impl Remarks {
    fn missing(&mut self, message: &str) {
        self.0.push(Remark {
            weight: Weight::Decide,
            setting: String::new(),
            line: None,
            message: message.to_owned(),
        });
    }

    fn of(&mut self, weight: Weight, setting: &settings::Setting, message: impl Into<String>) {
        self.0.push(Remark {
            weight,
            setting: setting.written.clone(),
            line: setting.line,
            message: message.into(),
        });
    }
}

/// The reason why values of a chart are not read, if they are a template.
fn unrendered(text: &str) -> Option<String> {
    let is_template = text.contains("extraArgs:") || text.contains("configFile:");
    let line = text.lines().position(|line| line.contains("{{") || line.contains("%{"))?;
    let at = line + 1;
    is_template.then(|| format!("line {at}: the values hold a template; render them first"))
}

/// Translates the text of a configuration.
///
/// # Errors
/// The text is in none of oauth2-proxy's forms; the message names the line and quotes nothing.
pub fn oauth2_proxy(text: &str) -> Result<Imported, String> {
    let mut remarks = Remarks::default();
    let settings = match alpha::read(text, &mut remarks) {
        Some(settings) => settings,
        None => match helm::read(text, &mut remarks)? {
            Some(settings) => settings,
            None => Settings::read(text, &mut remarks).map_err(|why| unrendered(text).unwrap_or(why))?,
        },
    };
    if settings.is_empty() {
        return Err(
            "no setting of oauth2-proxy was found: a TOML file, an alpha YAML file, flags or variables are read".to_owned(),
        );
    }
    for (name, setting) in &settings.0 {
        let given = match settings.switch(name) {
            _ if setting.text().is_empty() => SettingValue::Empty,
            Some(_) => SettingValue::On,
            None => SettingValue::Other,
        };
        if let Some((weight, message)) = options::remark(name, given) {
            remarks.of(weight, setting, message);
        }
    }
    let upstreams = serving::upstreams(&settings, &mut remarks);
    let portals = serving::portals(&upstreams);
    let provider = provider::translate(&settings, &mut remarks);
    let access = access::translate(&settings, &mut remarks);
    let mut config = yaml::Yaml::with_head(&[
        "cedargate.yaml, made from the configuration of oauth2-proxy. Each comment names the setting of its line.",
        "Check it: cedargate validate --config cedargate.yaml",
    ]);
    serving::write(&settings, &upstreams, &portals, &mut config, &mut remarks);
    provider.write(&mut config);
    serving::write_sessions(&settings, &mut config, &mut remarks);
    let files = access.files(&settings, &portals, &mut remarks);
    let mut remarks = remarks.0;
    remarks.sort_by_key(|remark| (remark.weight, remark.line));
    Ok(Imported {
        config: config.text(),
        files,
        remarks,
    })
}
