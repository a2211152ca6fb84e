//! The modes that `--chmod` takes: octal, or chmod's symbolic form.

/// Whether a mode is valid; the error says what is wrong.
pub(crate) fn check(mode: &str) -> Result<(), String> {
    let octal =
        || format!("invalid chmod parameter: '{mode}'. it should be octal string and between 0 and 07777");
    if mode.starts_with(|c: char| c.is_ascii_digit()) {
        let value = u32::from_str_radix(mode, 8).map_err(|_| octal())?;
        return if value <= 0o7777 { Ok(()) } else { Err(octal()) };
    }
    match mode.split(',').all(is_clause) {
        true => Ok(()),
        false => Err(format!(
            "invalid chmod parameter: '{mode}'. expected an octal mode or a list such as u=rwX,go=rX"
        )),
    }
}

/// `ugoa`, then at least one of `+-=` each with any of `rwxXstugo`.
fn is_clause(clause: &str) -> bool {
    let rest = clause.trim_start_matches(['u', 'g', 'o', 'a']);
    let operators = ['+', '-', '='];
    rest.starts_with(operators)
        && rest.chars().all(|c| {
            operators.contains(&c) || matches!(c, 'r' | 'w' | 'x' | 'X' | 's' | 't' | 'u' | 'g' | 'o')
        })
}
