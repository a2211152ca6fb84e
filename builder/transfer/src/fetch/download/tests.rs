use std::time::Duration;

use lithify_oci::Digest;

use super::{Conditions, Downloads, Fetched, File, add_file_name, disposition_name, fetch};
use crate::credentials::Secret;
use crate::http::{Patience, http_date};
use crate::testing::{Answer, Counter, Memory, Server, noise};

fn downloads() -> Downloads {
    Downloads::new(
        "test",
        Patience { first_pause: Duration::from_millis(1), attempts: 3, ..Patience::default() },
    )
}

#[tokio::test]
async fn a_file_comes_once_and_is_revalidated() {
    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    let server = Server::start(|asked, _| match asked.path.as_str() {
        "/moved" => Answer::new(302, "").with("location", "/dir/file%20name.txt"),
        _ if asked.header("if-none-match") == Some("\"one\"") => Answer::new(304, ""),
        _ if asked.header("authorization") == Some("Bearer sesame") => Answer::new(200, "let in"),
        _ => Answer::new(200, "content").with("etag", "\"one\"").with("last-modified", DATE),
    });
    let blobs = Memory::default();
    let url = format!("http://{}/moved", server.host);
    let fetched = fetch(&url, &Conditions::default(), &blobs).await.unwrap();
    let expected = File {
        digest: Digest::of("content"),
        size_bytes: 7,
        etag: Some("\"one\"".into()),
        last_modified: Some(DATE.into()),
        modified_unix_seconds: Some(784_111_777),
        file_name: "moved".into(),
    };
    assert_eq!(fetched, Fetched::File(expected));
    assert_eq!(blobs.get(&Digest::of("content")).as_deref(), Some(b"content".as_slice()));
    let known = Conditions { etag: Some("\"one\"".into()), ..Conditions::default() };
    assert_eq!(fetch(&url, &known, &blobs).await.unwrap(), Fetched::NotModified);
    let login = Conditions { authorization: Some(Secret::new("Bearer sesame")), ..Conditions::default() };
    let url = format!("http://{}/x", server.host);
    let Fetched::File(file) = fetch(&url, &login, &blobs).await.unwrap() else {
        panic!("no condition was set")
    };
    assert_eq!(file.digest, Digest::of("let in"));
}

#[tokio::test]
async fn a_broken_download_is_resumed_only_while_the_file_is_the_same() {
    let content = noise(1 << 20, 9);
    let check = async |etags: [&'static str; 2], resumes: bool| {
        let body = content.clone();
        let server = Server::start(move |asked, before| {
            let etag = etags[before.min(1)];
            if before == 0 {
                return Answer::new(200, body.clone()).with("etag", etag).cut_after(500_000);
            }
            match asked.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')) {
                Some(start) if asked.header("if-range") == Some(etag) => {
                    let start: usize = start.parse().unwrap();
                    let range = format!("bytes {start}-{}/{}", body.len() - 1, body.len());
                    Answer::new(206, &body[start..]).with("etag", etag).with("content-range", range)
                }
                _ => Answer::new(200, body.clone()).with("etag", etag),
            }
        });
        let blobs = Memory::default();
        let progress = Counter::default();
        let url = format!("http://{}/file", server.host);
        let fetched = downloads().fetch(&url, &Conditions::default(), &blobs, &progress).await.unwrap();
        assert!(matches!(fetched, Fetched::File(File { digest, .. }) if digest == Digest::of(&content)));
        assert_eq!(progress.total(), 1 << 20);
        assert_eq!(server.asked()[1].header("range").is_some(), resumes);
    };
    check(["\"a\"", "\"a\""], true).await;
    check(["\"a\"", "\"b\""], true).await;
    check(["W/\"a\"", "W/\"a\""], false).await;
}

#[tokio::test]
async fn failures_say_what_and_where() {
    let server = Server::start(|_, _| Answer::new(404, "nothing here"));
    let host = &server.host;
    let check = async |url: &str, expected: &str| {
        let error =
            downloads().fetch(url, &Conditions::default(), &Memory::default(), &()).await.unwrap_err();
        let text = error.to_string();
        assert_eq!(text, expected.replace("HOST", host), "{url}");
    };
    let url = format!("http://u:secret@{host}/file");
    check(&url, "cannot download http://u:xxxxx@HOST/file: 127.0.0.1 answered 404: nothing here").await;
    check("ftp://a.b/c", "\"ftp://a.b/c\": expected http:// or https://").await;
    check("nonsense", "\"nonsense\": relative URL without a base").await;
    let url = "http://name.invalid/file";
    let text = "cannot download http://name.invalid/file: the host name cannot be resolved; \
                check its spelling and the network (name.invalid)";
    check(url, text).await;
}

#[test]
fn names() {
    let check = |url: &str, expected: &str| assert_eq!(add_file_name(url).unwrap(), expected);
    check("http://a.b/c/d.txt?x=y#z", "d.txt");
    check("http://a.b/c/d.txt/", "d.txt");
    check("http://a.b/c/with%20space", "with space");
    check("http://a.b/100%", "100%");
    check("http://a.b/x%2f..%2fy", "y");
    check("http://a.b/x%2f..", "__unnamed__");
    check("http://a.b/", "__unnamed__");
    check("http://a.b", "__unnamed__");
    let check = |text: &str, expected: Option<&str>| {
        assert_eq!(disposition_name(text).as_deref(), expected, "{text}")
    };
    check("attachment", None);
    check("attachment; filename=a.txt", Some("a.txt"));
    check("attachment; filename=\"a \\\"b\\\";.txt\"; size=3", Some("a \"b\";.txt"));
    check("attachment; filename=\"../../etc/passwd\"", Some("passwd"));
    check("attachment; filename=\"..\"", None);
    check("attachment; filename=\"dir/\"", None);
    check("attachment; filename=plain; filename*=UTF-8''n%C3%A4me", Some("näme"));
    check("inline; FileName = a", Some("a"));
}

#[test]
fn dates() {
    let check = |text: &str, expected: Option<u64>| assert_eq!(http_date(text), expected, "{text}");
    check("Thu, 01 Jan 1970 00:00:00 GMT", Some(0));
    check("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777));
    check("Thu, 29 Feb 2024 23:59:59 GMT", Some(1_709_251_199));
    check("Fri, 01 Mar 2024 00:00:00 GMT", Some(1_709_251_200));
    check("Sun, 06 Nov 1994 08:49:37 +0000", None);
    check("Sun, 06 Nov 1994 25:49:37 GMT", None);
    check("yesterday", None);
}
