use super::{GitRef, GitUrl, Times, hide_password};

/// What was read, in one line: remote, reference, folder and the rest; `-` for no repository, `!` and the problem.
fn shown(found: Result<Option<GitUrl>, crate::Error>) -> String {
    let url = match found {
        Ok(Some(url)) => url,
        Ok(None) => return "-".into(),
        Err(error) => return format!("!{error}"),
    };
    let mut text = url.remote.clone();
    match &url.reference {
        Some(GitRef::Any(name)) => text += &format!(" any={name}"),
        Some(GitRef::Branch(name)) => text += &format!(" branch={name}"),
        Some(GitRef::Tag(name)) => text += &format!(" tag={name}"),
        None => {}
    }
    url.subdir.iter().for_each(|subdir| text += &format!(" subdir={subdir}"));
    url.checksum.iter().for_each(|checksum| text += &format!(" checksum={checksum}"));
    url.keep_git_dir.iter().for_each(|keep| text += &format!(" keep={keep}"));
    url.submodules.iter().for_each(|submodules| text += &format!(" submodules={submodules}"));
    url.fetch_by_commit.iter().for_each(|by| text += &format!(" by-commit={by}"));
    match url.times {
        Some(Times::Commit) => text += " mtime=commit",
        Some(Times::Checkout) => text += " mtime=checkout",
        None => {}
    }
    text
}

#[test]
fn addresses() {
    let check = |text: &str, expected: &str| assert_eq!(shown(GitUrl::parse(text)), expected, "{text}");
    // What is a repository, and what is not.
    check("https://example.com/repo.git", "https://example.com/repo.git");
    check("http://example.com/repo.git", "http://example.com/repo.git");
    check("https://example.com:8443/repo.git", "https://example.com:8443/repo.git");
    check("https://user:pw@example.com/repo.git#v1", "https://user:pw@example.com/repo.git any=v1");
    check("https://example.com/repo", "-");
    check("https://example.com/repo.git/", "-");
    check("https://example.com/file.tar.gz", "-");
    check("https://example.com/file?x=.git", "-");
    check("ftp://example.com/repo.git", "-");
    check("git://example.com/repo", "git://example.com/repo");
    check("git://example.com/repo.git#v1", "git://example.com/repo.git any=v1");
    check("ssh://git@example.com/repo", "ssh://git@example.com/repo");
    check(
        "ssh://git@example.com:2222/a/repo.git#main:sub",
        "ssh://git@example.com:2222/a/repo.git any=main subdir=sub",
    );
    check("ssh://-oProxyCommand=x/repo", "!\"ssh://-oProxyCommand=x/repo\": it names no host");
    check("git@example.com:owner/repo.git", "git@example.com:owner/repo.git");
    check("git@example.com:owner/repo#v1:a/b", "git@example.com:owner/repo any=v1 subdir=a/b");
    check("user_1@example.com:repo", "user_1@example.com:repo");
    check("-x@example.com:repo", "-");
    check("example.com:repo", "-");
    check("git@example.com", "-");
    check("github.com/owner/repo", "-");
    check("./git@example.com:repo", "-");
    check("../repo.git", "-");
    check("repo.git", "-");
    check("", "-");
    // Fragments.
    check("https://e.com/r.git#", "https://e.com/r.git");
    check("https://e.com/r.git#:sub", "https://e.com/r.git subdir=sub");
    check("https://e.com/r.git#v1:", "https://e.com/r.git any=v1");
    check(
        "https://e.com/r.git#refs/pull/3/head:/a//b/./",
        "https://e.com/r.git any=refs/pull/3/head subdir=a/b",
    );
    check(
        "https://e.com/r.git#v1:../x",
        "!\"https://e.com/r.git#v1:../x\": the folder leads out of the repository",
    );
    check(
        "https://e.com/r.git#-x",
        "!\"https://e.com/r.git#-x\": \"-x\" is no name of a branch, tag or commit",
    );
    check(
        "https://e.com/r.git#a..b",
        "!\"https://e.com/r.git#a..b\": \"a..b\" is no name of a branch, tag or commit",
    );
    check(
        "https://e.com/r.git#a b",
        "!\"https://e.com/r.git#a b\": \"a b\" is no name of a branch, tag or commit",
    );
    // Queries.
    check("https://e.com/r.git?ref=v1", "https://e.com/r.git any=v1");
    check("https://e.com/r.git?branch=v1", "https://e.com/r.git branch=v1");
    check("https://e.com/r.git?branch=refs/heads/v1", "https://e.com/r.git branch=v1");
    check("https://e.com/r.git?tag=v1&subdir=a%2Fb", "https://e.com/r.git tag=v1 subdir=a/b");
    check("git@e.com:r.git?tag=v1", "git@e.com:r.git tag=v1");
    check("https://e.com/r.git?checksum=ABCDEF0", "https://e.com/r.git checksum=abcdef0");
    check("https://e.com/r.git?commit=abcdef0", "https://e.com/r.git checksum=abcdef0");
    check(
        "https://e.com/r.git?keep-git-dir=1&submodules=false",
        "https://e.com/r.git keep=true submodules=false",
    );
    check("https://e.com/r.git?keep-git-dir", "https://e.com/r.git keep=true");
    check(
        "https://e.com/r.git?mtime=commit&fetch-by-commit=true",
        "https://e.com/r.git by-commit=true mtime=commit",
    );
    check("https://e.com/r.git?mtime=checkout", "https://e.com/r.git mtime=checkout");
    check("https://e.com/r.git?ref=v1#v1", "https://e.com/r.git any=v1");
    check("https://e.com/r.git?subdir=a#v1", "https://e.com/r.git any=v1 subdir=a");
    check("https://e.com/r.git?subdir=a#v1:a", "https://e.com/r.git any=v1 subdir=a");
    let fails = |query: &str, problem: &str| {
        let text = format!("https://e.com/r.git{query}");
        assert_eq!(shown(GitUrl::parse(&text)), format!("!\"{text}\": {problem}"));
    };
    fails("?what=x", "unknown key \"what\" in the query");
    fails("?ref=a&ref=b", "the query has ref twice");
    fails("?checksum=abcdef0&commit=abcdef0", "the query has checksum twice");
    fails("?ref=", "ref in the query has no value");
    fails("?tag", "tag in the query has no value");
    fails("?branch=a&tag=b", "branch and tag exclude each other");
    fails("?ref=a#b", "ref in the query and the reference after # disagree");
    fails("?subdir=a#v1:b", "subdir in the query and the folder after # disagree");
    fails("?subdir=../a", "the folder leads out of the repository");
    fails("?checksum=xyz", "\"xyz\" is no commit: expected 7 to 64 hexadecimal digits");
    fails("?keep-git-dir=maybe", "keep-git-dir is \"maybe\": expected true or false");
    fails("?mtime=now", "mtime is \"now\": expected checkout or commit");
}

#[test]
fn contexts() {
    let check =
        |text: &str, expected: &str| assert_eq!(shown(GitUrl::parse_context(text)), expected, "{text}");
    check("github.com/owner/repo", "https://github.com/owner/repo");
    check("github.com/owner/repo.git#v1:sub", "https://github.com/owner/repo.git any=v1 subdir=sub");
    check("github.com/owner/repo?tag=v1", "https://github.com/owner/repo tag=v1");
    check("https://github.com/owner/repo", "-");
    check("git@e.com:r", "git@e.com:r");
    check(".", "-");
}

#[test]
fn names_and_passwords() {
    let check = |text: &str, name: &str, shown: &str| {
        let url = GitUrl::parse(text).unwrap().unwrap();
        assert_eq!((url.short_name(), url.shown().as_str()), (name, shown));
    };
    check("https://u:p@e.com/a/repo.git", "repo", "https://u:xxxxx@e.com/a/repo.git");
    check("https://token@e.com/repo.git", "repo", "https://xxxxx@e.com/repo.git");
    check("ssh://git@e.com/repo.git", "repo", "ssh://git@e.com/repo.git");
    check("git@e.com:repo.git", "repo", "git@e.com:repo.git");
    assert_eq!(
        hide_password("fatal: unable to access 'https://u:p@e.com/x'"),
        "fatal: unable to access 'https://u:xxxxx@e.com/x'"
    );
}
