use super::*;

fn check(value: &str, mode: u32, is_directory: bool, expected: u32) {
    let got = parse(value).unwrap().apply(mode, is_directory);
    assert_eq!(got, expected, "{value} on {mode:o}: {got:o}, not {expected:o}");
}

#[test]
fn apply_to_files() {
    check("640", 0o755, false, 0o640);
    check("0755", 0, false, 0o755);
    check("4750", 0, false, 0o4750);
    check("0", 0o777, false, 0);
    check("a+rX", 0o640, false, 0o644);
    check("a+rX", 0o700, false, 0o755);
    check("u=rwX,go=rX", 0o640, false, 0o644);
    check("u=rwX,go=rX", 0o700, false, 0o755);
    check("go-rwx", 0o640, false, 0o600);
    check("g=u,o=", 0o640, false, 0o660);
    check("g=u,o=", 0o700, false, 0o770);
    check("u+s", 0o700, false, 0o4700);
    check("g+s", 0o700, false, 0o2700);
    check("+s", 0o700, false, 0o6700);
    check("o+s", 0o700, false, 0o700);
    check("+t", 0o700, false, 0o1700);
    check("u+t", 0o700, false, 0o700);
    check("o+t", 0o700, false, 0o1700);
    check("+x", 0o640, false, 0o751);
    check("a-w", 0o666, false, 0o444);
    check("u=rw+x-r", 0, false, 0o300);
    check("a=", 0o7777, false, 0);
    check("a+rX,go-w", 0o662, false, 0o644);
    check("o=g", 0o750, false, 0o755);
    check("=r", 0o777, false, 0o444);
    check("uo=rx", 0o020, false, 0o525);
}

#[test]
fn apply_to_folders() {
    check("a+rX", 0o711, true, 0o755);
    check("u=rwX,go=rX", 0o600, true, 0o755);
    check("u=rwx,g=rx", 0o6000, true, 0o6750);
    check("go-rwx", 0o711, true, 0o700);
}

#[test]
fn make_folders_on_the_way() {
    for (value, expected) in [("4750", 0o750), ("0", 0), ("1777", 0o777), ("a+rX", 0o755)] {
        assert_eq!(parse(value).unwrap().made_directory(), expected, "{value}");
    }
}

#[test]
fn refuse_the_rest() {
    for value in [
        "789",
        "0o755",
        "10000",
        "77777777777777",
        "",
        "rwx",
        "u",
        "u+q",
        "z+x",
        "u+x,",
        ",u+x",
        "g=uw",
        "1x",
        "-1",
        "+5",
    ] {
        let error = parse(value).unwrap_err().to_string();
        assert!(error.contains("invalid chmod parameter"), "{value}: {error}");
    }
}
