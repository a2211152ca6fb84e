//! What can be tested without a process.

use crate::idmap::{high_range, subordinate};
use crate::{Cancel, IdMap, IdRange, Identities, Security, policy};

#[test]
fn filters_fit() {
    for security in [Security::Sandbox, Security::Insecure] {
        let filter = policy::filter(security, Identities::Emulated, true);
        assert!(filter.compile().code().len() < 4096);
        let mut calls: Vec<i64> = filter.rules.iter().map(|rule| rule.call).collect();
        calls.sort_unstable();
        assert!(calls.windows(2).all(|pair| pair[0] != pair[1]), "one rule for a call");
        assert!(filter.highest_known.is_none_or(|highest| calls.iter().all(|call| *call <= highest)));
    }
}

/// The list stands in testdata/seccomp, made of the published profile.
#[test]
fn filter_is_as_strict_as_dockers() {
    use lithify_linux::seccomp::{Action, When};
    let list = lithify_testkit::in_repository("testdata/seccomp/docker-refuses.txt");
    let list = std::fs::read_to_string(list).expect("the list");
    let column = if cfg!(target_arch = "x86_64") { 1 } else { 2 };
    let filter = policy::filter(Security::Sandbox, Identities::Real, true);
    let mut known = vec![];
    for line in list.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split(' ').collect();
        let Ok(call) = fields[column].parse::<i64>() else { continue };
        known.push(call);
        let rule = filter.rules.iter().find(|rule| rule.call == call);
        let rule = rule.unwrap_or_else(|| panic!("{line} is let through"));
        assert!(matches!((&rule.when, rule.action), (When::Always, Action::Fail(1))), "{line}");
    }
    assert!(known.len() > 45, "{} calls", known.len());
    // And no stricter: a program that runs there runs here.
    for rule in &filter.rules {
        if let (When::Always, Action::Fail(1)) = (&rule.when, rule.action) {
            assert!(known.contains(&rule.call), "{} is refused here only", rule.call);
        }
    }
}

#[test]
fn cancelling() {
    let cancel = Cancel::new().unwrap();
    assert!(!cancel.is_cancelled());
    cancel.clone().cancel();
    assert!(cancel.is_cancelled() && cancel.is_cancelled());
}

#[test]
fn subordinate_ids() {
    let check = |file: &str, expected: &[(u32, u32)]| {
        assert_eq!(subordinate(file, 1000, Some("ann")), expected, "{file:?}");
    };
    check("", &[]);
    check("ann:100000:65536\n", &[(100_000, 65_536)]);
    check("1000:100000:65536", &[(100_000, 65_536)]);
    check("bob:1:2\nann:3:4\nann:5:6\n", &[(3, 4), (5, 6)]);
    check("anna:1:2", &[]);
    check("ann:x:2\nann:1\nann:7:0\n# ann:1:1", &[]);
}

#[test]
fn roots_range() {
    let check = |map: &str, outside: u32, count: u32| {
        assert_eq!(high_range(map), IdRange { inside: 0, outside, count }, "{map:?}");
    };
    check("         0          0 4294967295\n", 0x7000_0000, 65_536);
    // In a rootless container: the last ids that there are, and never 0.
    check("0 1000 1\n1 100000 65536\n", 1, 65_536);
    check("0 100000 65536", 1, 65_535);
    check("0 100000 200000", 134_464, 65_536);
}

#[test]
fn keys_of_maps() {
    let range = |inside, outside, count| IdRange { inside, outside, count };
    let check = |uids: Vec<IdRange>, gids: Vec<IdRange>, expected: &str| {
        assert_eq!(IdMap { uids, gids }.key(), expected);
    };
    let plain = vec![range(0, 1000, 1), range(1, 100_000, 65_536)];
    check(plain.clone(), plain.clone(), "0.1000.1_1.100000.65536");
    check(plain, vec![range(0, 7, 1)], "0.1000.1_1.100000.65536-g0.7.1");
}
