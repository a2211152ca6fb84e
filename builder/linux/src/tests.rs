//! What can be tested without privilege.

use std::os::fd::AsFd;

use crate::seccomp::{Action, Filter, Rule, When};
use crate::socket;

#[test]
fn messages_carry_descriptors() {
    let (one, other) = socket::pair().unwrap();
    socket::send_with_fds(&one, b"first", &[one.as_fd(), other.as_fd()]).unwrap();
    socket::send_with_fds(&one, b"second", &[]).unwrap();
    let (bytes, descriptors) = socket::receive_with_fds(&other, 16).unwrap().unwrap();
    assert_eq!((bytes.as_slice(), descriptors.len()), (&b"first"[..], 2));
    drop(descriptors);
    let (bytes, descriptors) = socket::receive_with_fds(&other, 16).unwrap().unwrap();
    assert_eq!((bytes.as_slice(), descriptors.len()), (&b"second"[..], 0));
    socket::send_with_fds(&one, b"longer than sixteen", &[]).unwrap();
    assert!(socket::receive_with_fds(&other, 16).is_err());
    drop(one);
    assert!(socket::receive_with_fds(&other, 16).unwrap().is_none());
    assert!(socket::send_with_fds(&other, b"x", &[]).is_err());
}

/// Runs a filter's program as the kernel would.
fn decide(code: &[libc::sock_filter], arch: u32, call: u32, arguments: [u64; 6]) -> u32 {
    let mut data = vec![];
    data.extend(call.to_ne_bytes());
    data.extend(arch.to_ne_bytes());
    data.extend(0_u64.to_ne_bytes());
    data.extend(arguments.iter().flat_map(|argument| argument.to_ne_bytes()));
    let (mut at, mut accumulator) = (0, 0_u32);
    loop {
        let step = code[at];
        at += 1;
        let class = u32::from(step.code) & 0x07;
        let jump = |holds: bool| usize::from(if holds { step.jt } else { step.jf });
        match (class, u32::from(step.code) & 0xf0) {
            (libc::BPF_LD, _) => {
                let word = &data[step.k as usize..][..4];
                accumulator = u32::from_ne_bytes(word.try_into().unwrap());
            }
            (libc::BPF_ALU, libc::BPF_AND) => accumulator &= step.k,
            (libc::BPF_JMP, libc::BPF_JEQ) => at += jump(accumulator == step.k),
            (libc::BPF_JMP, libc::BPF_JGT) => at += jump(accumulator > step.k),
            (libc::BPF_JMP, libc::BPF_JSET) => at += jump(accumulator & step.k != 0),
            (libc::BPF_RET, _) => return step.k,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn filters_decide() {
    const HERE: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
    const I386: u32 = 0x4000_0003;
    let rule = |call, when, action| Rule { call, when, action };
    let filter = Filter {
        rules: vec![
            rule(10, When::Always, Action::Fail(1)),
            rule(20, When::AnyBit(0, 0b110), Action::Fail(2)),
            rule(30, When::OneOf(1, 0xf0, vec![0x20, 0x60]), Action::Notify),
            rule(40, When::NoneOf(2, vec![0, 8]), Action::Fail(4)),
        ],
        highest_known: Some(100),
    };
    let check = |filter: &Filter, arch, call, arguments: [u64; 3], expected: Action| {
        let arguments = [arguments[0], arguments[1], arguments[2], 0, 0, 0];
        let decided = decide(filter.compile().code(), arch, call, arguments);
        assert_eq!(decided, expected.value(), "{arch:x} {call} {arguments:?}");
    };
    let absent = Action::Fail(libc::ENOSYS as u16);
    check(&filter, HERE, 0, [0, 0, 0], Action::Allow);
    check(&filter, HERE, 100, [0, 0, 0], Action::Allow);
    check(&filter, HERE, 101, [0, 0, 0], absent);
    check(&filter, I386, 0, [0, 0, 0], absent);
    check(&filter, HERE, 10, [9, 9, 9], Action::Fail(1));
    check(&filter, HERE, 20, [1, 9, 9], Action::Allow);
    check(&filter, HERE, 20, [4, 0, 0], Action::Fail(2));
    check(&filter, HERE, 30, [0, 0x2f, 0], Action::Notify);
    check(&filter, HERE, 30, [0, 0x61, 0], Action::Notify);
    check(&filter, HERE, 30, [0, 0x10, 0], Action::Allow);
    check(&filter, HERE, 40, [0, 0, 8], Action::Allow);
    check(&filter, HERE, 40, [0, 0, 9], Action::Fail(4));
    // The kernel looks at no more of these arguments than their lower half.
    check(&filter, HERE, 30, [0, 0x1_0000_0020, 0], Action::Notify);
    let open = Filter { highest_known: None, ..filter };
    check(&open, HERE, 500, [0, 0, 0], Action::Allow);
    check(&open, I386, 500, [0, 0, 0], absent);
    #[cfg(target_arch = "x86_64")]
    check(&open, HERE, 0x4000_0000, [0, 0, 0], absent);
}
