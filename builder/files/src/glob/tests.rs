use super::*;

/// `Some(true)` for a match, `None` for a pattern that is refused.
fn check(pattern: &str, name: &str, expected: Option<bool>) {
    let got = Pattern::new(pattern.as_bytes()).ok().map(|pattern| pattern.matches(name.as_bytes()));
    assert_eq!(got, expected, "{pattern:?} on {name:?}");
}

#[test]
fn match_as_go_does() {
    let (yes, no) = (Some(true), Some(false));
    check("abc", "abc", yes);
    check("*", "abc", yes);
    check("*", "", yes);
    check("*c", "abc", yes);
    check("a*", "a", yes);
    check("a*", "abc", yes);
    check("a*", "ab/c", no);
    check("a*/b", "abc/b", yes);
    check("a*/b", "a/c/b", no);
    check("a*b*c*d*e*/f", "axbxcxdxe/f", yes);
    check("a*b*c*d*e*/f", "axbxcxdxexxx/f", yes);
    check("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", no);
    check("a*b*c*d*e*/f", "axbxcxdxexxx/fff", no);
    check("a*b?c*x", "abxbbxdbxebxczzx", yes);
    check("a*b?c*x", "abxbbxdbxebxczzy", no);
    check("ab[c]", "abc", yes);
    check("ab[b-d]", "abc", yes);
    check("ab[e-g]", "abc", no);
    check("ab[^c]", "abc", no);
    check("ab[^b-d]", "abc", no);
    check("ab[^e-g]", "abc", yes);
    check("a\\*b", "a*b", yes);
    check("a\\*b", "ab", no);
    check("a?b", "a☺b", yes);
    check("a[^a]b", "a☺b", yes);
    check("a???b", "a☺b", no);
    check("a[^a][^a][^a]b", "a☺b", no);
    check("[a-ζ]*", "α", yes);
    check("*[a-ζ]", "A", no);
    check("a?b", "a/b", no);
    check("a*b", "a/b", no);
    check("[\\]a]", "]", yes);
    check("[\\-]", "-", yes);
    check("[x\\-]", "x", yes);
    check("[x\\-]", "z", no);
    check("[\\-x]", "-", yes);
    check("[[]", "[", yes);
    check("*x", "xxx", yes);
    check("a]", "a]", yes);
    check("[z-a]", "m", no);
    for bad in ["[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[", "[^", "[^bc", "a[", "a[b", "\\", "ab\\"] {
        check(bad, "a", None);
    }
}

#[test]
fn match_bytes_that_are_no_text() {
    let pattern = Pattern::new(b"a?\xff*").unwrap();
    assert!(pattern.matches(b"a\xfe\xff"));
    assert!(pattern.matches(b"a\xc3\xa9\xffz"));
    assert!(!pattern.matches(b"a\xfe\xfe"));
}

#[test]
fn tell_names_from_patterns() {
    for (pattern, expected) in [
        ("a", false),
        ("a*", true),
        ("a\\*", false),
        ("[a]", true),
        ("\\[a]", false),
        ("a?", true),
        ("\\", false),
    ] {
        assert_eq!(has_wildcards(pattern.as_bytes()), expected, "{pattern}");
    }
}

#[test]
fn match_deep_as_moby_does() {
    // The table of moby's own tests, as far as it is about single patterns.
    let table: &[(&str, &str, bool)] = &[
        ("**", "file", true),
        ("**", "dir/file", true),
        ("**/**", "dir/file", true),
        ("dir/**", "dir/file", true),
        ("dir/**", "dir/dir2/file", true),
        ("dir/**", "dir", false),
        ("**/dir2/*", "dir/dir2/file", true),
        ("**/dir2/**", "dir/dir2/dir2/file", true),
        ("**file", "file", true),
        ("**file", "dir/file", true),
        ("**/file", "dir/file", true),
        ("**/file", "file", true),
        ("**/file", "afile", false),
        ("**file", "dir/dir/file", true),
        ("**/file*", "dir/dir/file.txt", true),
        ("**/file*txt", "dir/dir/file.txt", true),
        ("**/**/*.txt", "dir/dir/file.txt", true),
        ("**/**/*.txt2", "dir/dir/file.txt", false),
        ("**/*.txt", "file.txt", true),
        ("a**/*.txt", "a/file.txt", true),
        ("a**/*.txt", "a/dir/file.txt", true),
        ("a/*.txt", "a/dir/file.txt", false),
        ("a/**/*.txt", "a/file.txt", true),
        ("a/**/*.txt", "a/dir/dir/file.txt", true),
        (".*", ".foo", true),
        (".*", "foo", false),
        ("abc.def", "abcZdef", false),
        ("a(b)c/def", "a(b)c/def", true),
        ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
        (
            "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl",
            "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl",
            true,
        ),
        ("dist/*.whl", "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl", true),
        ("a**b", "ab", true),
        ("a**b", "ax/b", true),
        ("a**b", "axb", false),
        ("foo**", "foo/x/y", true),
        ("foo**", "foobar", true),
        ("[^a]*", "bc", true),
        ("a\\*b", "a*b", true),
        ("a\\*b", "axb", false),
        ("*/é?", "x/éö", true),
    ];
    for (pattern, path, expected) in table {
        let deep = Deep::new(pattern.as_bytes()).unwrap();
        assert_eq!(deep.matches(path.as_bytes()), *expected, "{pattern} on {path}");
    }
    assert!(Deep::new(b"[z-a]").is_err());
    assert!(Deep::new(b"a[").is_err());
}

#[test]
fn know_what_cannot_match_below_a_folder() {
    let table: &[(&str, &str, bool)] = &[
        ("a/b/c", "a", true),
        ("a/b/c", "a/b", true),
        ("a/b/c", "a/b/c", false),
        ("a/b", "ab", false),
        ("other/*", "node_modules", false),
        ("*/x", "node_modules", true),
        ("*/x", "a/b", false),
        ("clients/*/x", "clients/one/two", false),
        ("**/keep", "deep/down", true),
        ("a/**", "a/b/c", true),
        ("a/**", "b", false),
        ("a/**/z*", "a/b/c", true),
        ("a/**/z*", "b", false),
        ("x", "", true),
    ];
    for (pattern, folder, expected) in table {
        let deep = Deep::new(pattern.as_bytes()).unwrap();
        assert_eq!(deep.may_match_below(folder.as_bytes()), *expected, "{pattern} below {folder}");
    }
}
