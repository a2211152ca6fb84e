//! Tests that rules make on names and values.

/// Whether a name sounds like that of a secret.
pub(crate) fn is_secret(name: &str) -> bool {
    const SECRET: [&str; 10] = [
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    const HARMLESS: [&str; 3] = ["public", "file", "version"];
    let lower = name.to_ascii_lowercase();
    let holds = |words: &[&str]| lower.split('_').any(|word| words.contains(&word));
    holds(&SECRET) && !holds(&HARMLESS)
}
