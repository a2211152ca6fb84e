//! A network of a step's own: what is reached from it and what is not, and that it leaves no trace.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use lithify_testkit::{Env, Finished, Image, Running, is_root, missing_program, skipped};

const BINARY: &str = env!("CARGO_BIN_EXE_lithify");
const LIMIT: Duration = Duration::from_secs(60);
/// Gives whom it may concern the device that networks are made with, and becomes `$@`, as the user `$1` if that is one.
const WITH_TUN: &str = r#"tun=$0 user=$1 && shift &&
mount --bind "$tun" /dev/net/tun &&
if [ -n "$user" ]; then exec setpriv --reuid "$user" --regid "$user" --init-groups -- "$@"; else exec "$@"; fi"#;

/// lithify where /dev/net/tun is open to everyone, as it is on most machines.
fn with_tun(env: &Env, args: &[&str]) -> Command {
    let lithify = env.lithify(args);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", WITH_TUN]).arg(env.dir().join("tun"));
    command.arg(env.user().map_or("", |user| user.name()));
    command.arg(lithify.get_program()).args(lithify.get_args()).env_clear();
    for (name, value) in lithify.get_envs() {
        value.map(|value| command.env(name, value));
    }
    command.current_dir("/");
    command
}

fn run(mut command: Command) -> Finished {
    Running::start(&mut command).expect("start").wait(LIMIT)
}

/// As root and as a plain user; nothing, with a word about it, where that cannot be tried.
fn environments(test: &str) -> Vec<Env> {
    if !is_root() {
        skipped(test, "only root can open /dev/net/tun to everyone");
        return vec![];
    }
    if let Some(why) = missing_program(&["pasta", "slirp4netns", "unshare", "setpriv"]) {
        skipped(test, &why);
        return vec![];
    }
    let plain = Env::plain(BINARY);
    if let Err(why) = &plain {
        skipped(test, why);
    }
    let made = [Ok(Env::new(BINARY)), plain].into_iter().flatten();
    let ready = made.filter(|env| {
        let tun = env.dir().join("tun");
        let made = Command::new("mknod").arg("-m666").arg(&tun).args(["c", "10", "200"]).status();
        let works = made.is_ok_and(|status| status.success())
            && std::fs::File::options().read(true).write(true).open(&tun).is_ok();
        if !works {
            skipped(test, "the kernel has no tun devices, or the temporary folder is mounted nodev");
        }
        works
    });
    ready.collect()
}

#[test]
fn own_networks() {
    // On the machine's loopback interface, and on all.
    let listener = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let reach = |host: &str| format!("nc -w 2 {host} {port} < /dev/null");
    let dockerfile = |network: &str| {
        let (local, gateway) = (reach("127.0.0.1"), reach("$gateway"));
        let check = match network {
            "host" => local,
            // No host's loopback by its own name nor by the gateway's, and no other interface than these.
            _ => format!(
                "! {local} && gateway=$(ip route | grep ^default | cut -d' ' -f3) && test -n \"$gateway\" && ! {gateway} \
                 && test $(ls /sys/class/net | wc -l) = 2 && grep -E '^nameserver (169.254.1.1|10.0.2.3)$' /etc/resolv.conf"
            ),
        };
        format!(
            "FROM busybox\nRUN --network=none test $(ls /sys/class/net | wc -l) = 1\nRUN case 1 in 1) {check};; esac; \
                 echo $? > /code; cp /etc/hosts /hosts\nRUN test $(cat /code) = 0\n"
        )
    };
    for env in environments("own_networks") {
        for network in ["host", "pasta", "slirp4netns"] {
            let context = env.folder(&[("Dockerfile", dockerfile(network).as_str())]);
            let context = context.display().to_string();
            let flag = format!("--network={network}");
            let archive = env.fresh("image.tar");
            let output = format!("--output=type=oci,dest={}", archive.display());
            let args = ["build", "--progress=plain", &env.busybox(), &flag, &output, &context];
            run(with_tun(&env, &args)).expect_ok();
            let image = Image::from_archive(&archive).expect("an image");
            assert_eq!(image.file("/etc/resolv.conf").expect("read"), None, "{network}");
            // The network is in no key: on the host's all of it is in the cache.
            let cached =
                env.run(["build", "--progress=plain", &env.busybox(), &output, &context]).expect_ok();
            assert_eq!(cached.log().matches("CACHED").count(), 3, "{network}: {}", cached.log());
            assert_eq!(Image::from_archive(&archive).expect("an image").digest, image.digest);
        }
    }
}

/// What the step reaches that a program has joined: the machine itself by its outer address, which slirp4netns passes on.
#[test]
fn machine_is_reached_from_outside() {
    let test = "machine_is_reached_from_outside";
    let outer = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    let Ok(outer) = outer else { return skipped(test, "the machine has no route to others") };
    let listener = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    for env in environments(test) {
        let dockerfile = format!("FROM busybox\nRUN nc -w 5 {} {port} < /dev/null\n", outer.ip());
        let context = env.folder(&[("Dockerfile", dockerfile.as_str())]).display().to_string();
        let args = ["build", "--progress=plain", &env.busybox(), "--network=slirp4netns", &context];
        run(with_tun(&env, &args)).expect_ok();
    }
}

#[test]
fn refusals() {
    for env in environments("refusals").into_iter().take(1) {
        let check = |run_flags: &str, flags: &[&str], script: &str, code: i32, text: &str| {
            let dockerfile = format!("FROM busybox\nRUN {run_flags} true\n");
            let context = env.folder(&[("Dockerfile", dockerfile.as_str())]).display().to_string();
            let busybox = env.busybox();
            let args = [&["build", "--progress=plain", "--no-cache", &busybox], flags, &[&context]].concat();
            let lithify = env.lithify(args);
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", &format!("{script} exec \"$@\""), "sh"]);
            command.arg(lithify.get_program()).args(lithify.get_args()).env_clear();
            for (name, value) in lithify.get_envs() {
                value.map(|value| command.env(name, value));
            }
            run(command).expect_failure(code, text);
        };
        let hidden = |program: &str| {
            format!(
                "for f in /usr/local/bin /usr/bin /bin; do [ ! -e $f/{program} ] || mount --bind /dev/null $f/{program}; done;"
            )
        };
        check("", &["--network=pasta"], &hidden("pasta"), 4, "apt install passt");
        check("", &["--network=slirp4netns"], &hidden("slirp4netns"), 4, "apt install slirp4netns");
        // A device that is none.
        let no_tun = "mount --bind /dev/null /dev/net/tun;";
        check("", &["--network=pasta"], no_tun, 4, "/dev/net/tun must be open to the user");
        check("", &["--network=slirp4netns"], no_tun, 4, "/dev/net/tun must be open to the user");
        check("--network=host", &["--network=pasta"], "", 1, "use --allow network.host");
        let allowed = ["--network=pasta", "--allow=network.host", "--add-host=x:1.2.3.4"];
        let dockerfile = "FROM busybox\nRUN --network=host true\n";
        let context = env.folder(&[("Dockerfile", dockerfile)]).display().to_string();
        let busybox = env.busybox();
        env.run([&["build", "--progress=plain", &busybox], &allowed[..], &[&context]].concat()).expect_ok();
    }
}

/// The program ends with the step, and with lithify.
#[test]
fn nothing_is_left() {
    for env in environments("nothing_is_left") {
        for program in ["pasta", "slirp4netns"] {
            let context = env.folder(&[("Dockerfile", "FROM busybox\nRUN echo started; sleep 4244\n")]);
            let context = context.display().to_string();
            let flag = format!("--network={program}");
            let args = ["build", "--progress=plain", &env.busybox(), &flag, &context];
            // In a session of its own, to tell its processes from others'.
            let mut running = Running::start(&mut with_tun(&env, &args)).expect("start");
            running.wait_for_line_where("its output", LIMIT, |line| line.trim_end().ends_with(" started"));
            let ours = |pid: &u32| is_descendant(*pid, running.id());
            let left: Vec<u32> = lithify_testkit::processes_with(program).into_iter().filter(ours).collect();
            assert!(!left.is_empty(), "no {program} runs");
            running.signal(rustix::process::Signal::KILL);
            assert!(lithify_testkit::gone_within(&left, Duration::from_secs(10)), "{left:?} are left");
        }
    }
}

fn is_descendant(mut pid: u32, of: u32) -> bool {
    while pid > 1 && pid != of {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        pid = parent.unwrap_or(0);
    }
    pid == of
}
