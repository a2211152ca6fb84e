use super::*;

const ROOT: Capabilities = crate::policy::CAPABILITIES;

/// Makes changes one after another; shows what each gave, and the ids (real, effective, saved, file) and whether capabilities are permitted
/// and effective in the end.
#[track_caller]
fn check(start: u32, changes: &[Change], expected: &str) {
    let mut who = Credentials::new(start, start, &[], ROOT);
    check_on(&mut who, changes, expected);
}

#[track_caller]
fn check_on(who: &mut Credentials, changes: &[Change], expected: &str) {
    let mut shown = String::new();
    for change in changes {
        shown.push(if who.change(Kind::User, *change).is_ok() { '+' } else { '-' });
    }
    let Ids { real, effective, saved, file } = who.users;
    let has = |set: u64| if set == 0 { "none" } else { "all" };
    shown += &format!(
        " {real} {effective} {saved} {file} {} {}",
        has(who.sets.permitted),
        has(who.sets.effective)
    );
    assert_eq!(shown, expected);
}

#[test]
fn users_change_as_the_kernel_lets_them() {
    use Change::{One, Three, Two};
    const SAME: u32 = super::SAME;
    check(0, &[], " 0 0 0 0 all all");
    check(0, &[One(7)], "+ 7 7 7 7 none none");
    check(0, &[One(7), One(0)], "+- 7 7 7 7 none none");
    check(7, &[One(0)], "- 7 7 7 7 none none");
    check(7, &[One(7)], "+ 7 7 7 7 none none");
    // Given up for a while, and taken back.
    check(0, &[Three(SAME, 7, SAME)], "+ 0 7 0 7 all none");
    check(0, &[Three(SAME, 7, SAME), Three(SAME, 0, SAME)], "++ 0 0 0 0 all all");
    check(0, &[Two(SAME, 7), Two(SAME, 0)], "++ 0 0 7 0 all all");
    check(0, &[Three(7, 7, 7), Three(SAME, 0, SAME)], "+- 7 7 7 7 none none");
    check(0, &[Two(7, 7), Two(0, 0)], "+- 7 7 7 7 none none");
    // As sudo does it.
    check(0, &[Three(7, 0, 0), Three(SAME, 7, 0), Three(SAME, 0, SAME)], "+++ 7 0 0 0 all all");
    check(0, &[One(SAME)], "- 0 0 0 0 all all");
}

#[test]
fn capabilities_are_kept_where_that_is_asked_for() {
    let mut who = Credentials::new(0, 0, &[], ROOT);
    who.keeps = true;
    check_on(&mut who, &[Change::Three(6, 6, 6)], "+ 6 6 6 6 all none");
    // setpriv(1) takes them back to change groups, and they go with the next program.
    who.set_capabilities(ROOT.bits(), ROOT.bits(), 0).unwrap();
    who.change(Kind::Group, Change::Three(12, 12, 12)).unwrap();
    who.execute(None, None);
    check_on(&mut who, &[Change::One(0)], "- 6 6 6 6 none none");
    assert!(who.set_capabilities(1, 1, 0).is_err());
}

#[test]
fn set_user_programs_act_as_their_owner() {
    let mut who = Credentials::new(7, 7, &[], ROOT);
    who.execute(Some(0), None);
    check_on(&mut who, &[], " 7 0 0 0 all all");
    who.execute(None, None);
    check_on(&mut who, &[Change::Three(7, 7, 7)], "+ 7 7 7 7 none none");
    let mut who = Credentials::new(0, 0, &[], ROOT);
    who.execute(Some(6), Some(12));
    check_on(&mut who, &[], " 0 6 6 6 all none");
    assert_eq!((who.groups.real, who.groups.file), (0, 12));
}

#[test]
fn file_ids_take_the_rights_to_files_along() {
    let mut who = Credentials::new(0, 0, &[], ROOT);
    assert_eq!(who.change_file_id(Kind::User, 7), 0);
    assert!(!who.may(Capabilities::DAC_OVERRIDE) && who.may(Capabilities::SETUID));
    assert_eq!(who.change_file_id(Kind::User, super::SAME), 7);
    assert_eq!(who.change_file_id(Kind::User, 0), 7);
    assert!(who.may(Capabilities::DAC_OVERRIDE));
    let mut who = Credentials::new(7, 7, &[], ROOT);
    assert_eq!((who.change_file_id(Kind::User, 0), who.users.file), (7, 7));
}

#[test]
fn credentials_are_known_by_number() {
    let first = Credentials::new(0, 0, &[], ROOT);
    let mut table = Table::new(first.clone());
    let mut other = first.clone();
    other.set_groups(vec![5, 4]).unwrap();
    assert_eq!(table.mark(&first), None);
    assert_eq!(table.mark(&other), Some(1));
    assert_eq!(table.mark(&other), Some(1));
    assert_eq!(table.get(Some(1)).supplementary, [4, 5]);
    assert_eq!(table.get(None), &first);
    // Somebody else's number.
    assert_eq!(table.get(Some(77)), &first);
}
