//! The text of an error with its causes: Cedar puts the place of an error into a cause.

/// The start of Cedar's message about a value that is no entity; a test holds it against Cedar.
const NO_ENTITY: &str = "expected a literal entity reference";

/// An error of Cedar's readers of JSON; with a hint where text stands for an entity: Cedar keeps its own hint apart.
pub fn json_error(error: &dyn std::error::Error) -> String {
    let text = error_chain(error);
    match text.contains(NO_ENTITY) {
        true => format!("{text}; write `{{\"type\": …, \"id\": …}}`"),
        false => text,
    }
}

/// An error and its causes on one line.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
