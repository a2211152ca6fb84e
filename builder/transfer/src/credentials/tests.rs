use std::os::unix::fs::PermissionsExt as _;

use super::{Credentials, Login, Secret, ask_helper};
use crate::Error;

fn read(text: &str) -> Result<Credentials, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    std::fs::write(&path, text).unwrap();
    Credentials::from_docker_config(&path)
}

fn password(user: &str, password: &str) -> Option<Login> {
    Some(Login::Password { user: user.into(), password: Secret::new(password) })
}

#[tokio::test]
async fn entries_are_found_however_they_are_written() {
    let check = async |file: &str, registry: &str, expected: Option<Login>| {
        let found = read(file).unwrap().find(registry, "team/app").await.unwrap();
        assert_eq!(found, expected, "{registry} in {file}");
    };
    let up = password("u", "p:w");
    check("{}", "example.com", None).await;
    check(r#"{"auths":{"example.com":{"auth":"dTpwOnc="}}}"#, "example.com", up.clone()).await;
    check(r#"{"auths":{"example.com":{"auth":"dTpwOnc"}}}"#, "example.com", up.clone()).await;
    check(r#"{"auths":{"example.com":{"username":"u","password":"p:w"}}}"#, "example.com", up.clone()).await;
    check(r#"{"auths":{"https://example.com/v2/":{"auth":"dTpwOnc="}}}"#, "example.com", up.clone()).await;
    check(r#"{"auths":{"example.com:5000":{"auth":"dTpwOnc="}}}"#, "example.com", None).await;
    check(r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpwOnc="}}}"#, "docker.io", up.clone()).await;
    check(r#"{"auths":{"docker.io":{"auth":"dTpwOnc="}}}"#, "docker.io", up.clone()).await;
    check(r#"{"auths":{"example.com/team":{"auth":"dTpwOnc="}}}"#, "example.com", up.clone()).await;
    check(r#"{"auths":{"example.com/other":{"auth":"dTpwOnc="}}}"#, "example.com", None).await;
    // docker leaves an empty entry where a program keeps the login.
    check(r#"{"auths":{"example.com":{}}}"#, "example.com", None).await;
    let token = Some(Login::IdentityToken(Secret::new("t")));
    check(r#"{"auths":{"example.com":{"auth":"dTo=","identitytoken":"t"}}}"#, "example.com", token).await;
}

#[test]
fn files_that_cannot_be_used_say_where_and_not_what() {
    let check = |file: &str, expected: &str| {
        let error = read(file).unwrap_err().to_string();
        assert!(error.ends_with(expected), "{error}");
    };
    check("{", "invalid JSON or unexpected value at line 1, column 1");
    check(r#"{"auths":{"a.b":{"auth":["hunter2"]}}}"#, "unexpected value at line 1, column 24");
    check(r#"{"auths":{"a.b":{"auth":"hunter2!"}}}"#, r#"entry "a.b": "auth" is not base64"#);
    check(r#"{"auths":{"a.b":{"auth":"aHVudGVy"}}}"#, r#""auth" has no colon between user and password"#);
    let nowhere = Credentials::from_docker_config(std::path::Path::new("/nonexistent/config.json")).unwrap();
    assert_eq!(format!("{nowhere:?}"), format!("{:?}", Credentials::default()));
    let shown = format!("{:?}", read(r#"{"auths":{"a.b":{"username":"u","password":"hunter2"}}}"#).unwrap());
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[tokio::test]
async fn helpers_are_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("helper");
    let check = async |script: &str, registry: &str, expected: Result<Option<Login>, &str>| {
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let found = ask_helper(path.to_str().unwrap(), registry).await;
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (found, expected) => panic!("{found:?} where {expected:?} is expected"),
        }
    };
    let echo =
        r#"[ "$1" = get ] && read -r host; printf '{"ServerURL":"x","Username":"u","Secret":"%s"}' "$host""#;
    check(echo, "example.com", Ok(password("u", "example.com"))).await;
    check(echo, "docker.io", Ok(password("u", "https://index.docker.io/v1/"))).await;
    let token = r#"cat >/dev/null; echo '{"Username":"<token>","Secret":"s"}'"#;
    check(token, "a.b", Ok(Some(Login::IdentityToken(Secret::new("s"))))).await;
    let unknown = "cat >/dev/null; echo credentials not found in native keychain; exit 1";
    check(unknown, "a.b", Ok(None)).await;
    check("cat >/dev/null; echo locked >&2; exit 3", "a.b", Err("exit status: 3: locked")).await;
    check("cat >/dev/null; echo secret", "a.b", Err("its answer is no JSON")).await;
    let file = r#"{"credHelpers":{"a.b":"is-not-there"},"credsStore":"neither"}"#;
    for registry in ["a.b", "c.d"] {
        let error = read(file).unwrap().find(registry, "x").await.unwrap_err().to_string();
        assert!(error.contains("cannot be started"), "{error}");
    }
}
