//! The word that a misspelt key or name of the configuration probably means, for its message.

/// The least similarity of two words at which one is suggested for the other.
const SIMILARITY_MIN: f64 = 0.8;

/// The most similar of the `known` words, if one is similar enough.
fn suggestion<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let scored = known
        .into_iter()
        .map(|one| (strsim::jaro_winkler(&lower, &one.to_lowercase()), one));
    scored
        .filter(|(score, _)| *score >= SIMILARITY_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, one)| one)
}

/// `did you mean x?`, or else the list of the known words.
pub fn hint(word: &str, known: &[&str]) -> String {
    match suggestion(word, known.iter().copied()) {
        Some(one) => format!("did you mean `{one}`?"),
        None if known.is_empty() => "there are none here".to_owned(),
        None => format!("known are: {}", known.join(", ")),
    }
}
