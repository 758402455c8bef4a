//! Hosts on the underlay, with and without a switch, and what is left of them.

use std::fs;
use std::net::IpAddr;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lab::traffic::{self, EchoServer, Pinging, Probe};
use lab::{Host, Lab, MARK, Netns, Ovs, Progress, Underlay, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const MS: Duration = Duration::from_millis(1);
/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn addresses(host: &Host) -> [IpAddr; 2] {
    [host.ipv4().into(), host.ipv6().into()]
}

/// What still carries the lab's mark, its names or its folder.
fn traces(name: &str, dir: &Path) -> Vec<String> {
    let mut left = Vec::new();
    let mark = format!("{MARK}={}", dir.display());
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|word| word == mark.as_bytes()) {
            left.push(format!("process {}", entry.path().display()));
        }
    }
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    left.extend(names.map(|entry| entry.file_name().into_string().unwrap()).filter(|file| file.starts_with(name)));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    left.extend(mounts.lines().filter(|line| line.contains(&dir.display().to_string())).map(str::to_owned));
    left.extend(dir.exists().then(|| dir.display().to_string()));
    left
}

fn wait_reachable(from: &Netns, target: IpAddr) {
    wait::until(&format!("{target}"), PATIENCE, || traffic::is_reachable(from, target).map(|is| is.then_some(()))).unwrap();
}

#[test]
fn two_hosts_reach_each_other_over_the_underlay() {
    let lab = Lab::scratch().unwrap();
    let underlay = Underlay::new(&lab).unwrap();
    let (a, b) = (underlay.host("a", 11).unwrap(), underlay.host("b", 12).unwrap());
    for target in addresses(&b) {
        let report = traffic::ping(a.netns(), target, 10, 5 * MS).unwrap();
        assert_eq!((report.received, report.duplicates), (10, 0), "{target}: {report:?}");
    }
    let _server = EchoServer::start(b.netns(), 7000).unwrap();
    for target in addresses(&b) {
        assert!(traffic::udp(a.netns(), (target, 7000).into(), b"x", PATIENCE).unwrap().is_answered());
        assert!(traffic::tcp(a.netns(), (target, 7000).into(), b"x", PATIENCE).unwrap().is_answered());
        assert_eq!(traffic::tcp(a.netns(), (target, 7001).into(), b"x", PATIENCE).unwrap(), Probe::Refused);
    }
}

#[test]
fn a_cut_cable_loses_packets_and_the_report_says_how_many() {
    let lab = Lab::scratch().unwrap();
    let underlay = Underlay::new(&lab).unwrap();
    let (a, b) = (underlay.host("a", 11).unwrap(), underlay.host("b", 12).unwrap());
    wait_reachable(a.netns(), b.ipv4().into());
    let pinging = Pinging::start(a.netns(), b.ipv4().into(), 5 * MS).unwrap();
    wait::until("a first answer", PATIENCE, || Ok::<_, String>((pinging.answers() > 0).then_some(()))).unwrap();
    underlay.set_cable(&b, false).unwrap();
    assert!(!traffic::is_reachable(a.netns(), b.ipv6().into()).unwrap());
    underlay.set_cable(&b, true).unwrap();
    wait_reachable(a.netns(), b.ipv6().into());
    let answers = pinging.answers();
    wait::until("another answer", PATIENCE, || Ok::<_, String>((pinging.answers() > answers).then_some(()))).unwrap();
    let report = pinging.stop().unwrap();
    assert!(report.lost > 0 && report.received > 0 && report.longest_gap_ms > 500.0, "{report:?}");
}

#[test]
fn hosts_with_a_switch_reach_each_other_through_it_and_survive_its_restart() {
    let lab = Lab::scratch().unwrap();
    let underlay = Underlay::new(&lab).unwrap();
    let (a, b) = (underlay.host("a", 11).unwrap(), underlay.host("b", 12).unwrap());
    let (ovs_a, _ovs_b) = (Ovs::start(&a).unwrap(), Ovs::start(&b).unwrap());
    let _server = EchoServer::start(b.netns(), 7000).unwrap();
    let check = |when: &str| {
        for target in addresses(&b) {
            wait_reachable(a.netns(), target);
            let report = traffic::ping(a.netns(), target, 20, 5 * MS).unwrap();
            assert_eq!((report.received, report.duplicates), (20, 0), "{when}: {target}: {report:?}");
            let answer = traffic::tcp(a.netns(), (target, 7000).into(), b"x", PATIENCE).unwrap();
            assert!(answer.is_answered(), "{when}: {target}: {answer:?}");
        }
    };
    check("at first");
    assert!(ovs_a.ofctl(&["show", "br-phy"]).unwrap().contains("eth0"));
    ovs_a.switch().kill9().unwrap();
    assert!(!traffic::is_reachable(a.netns(), b.ipv4().into()).unwrap(), "the switch is dead");
    ovs_a.restart_switch().unwrap();
    ovs_a.restart_database().unwrap();
    check("after a restart");
}

#[test]
fn a_lab_that_ends_leaves_nothing() {
    let lab = Lab::scratch().unwrap();
    let (name, dir) = (lab.name().to_owned(), lab.dir().to_owned());
    let underlay = Underlay::new(&lab).unwrap();
    let host = underlay.host("a", 11).unwrap();
    let ovs = Ovs::start(&host).unwrap();
    // A process that got away from its parent, and a mount.
    let away = host.spawn("away", Command::new("sh").args(["-c", "setsid sleep 1000 & setsid sleep 1000 & wait"])).unwrap();
    fs::create_dir(dir.join("mounted")).unwrap();
    assert!(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(dir.join("mounted")).status().unwrap().success());
    assert!(away.is_alive());
    drop(lab);
    assert_eq!(traces(&name, &dir), Vec::<String>::new());
    drop((away, ovs, host, underlay));
    assert_eq!(traces(&name, &dir), Vec::<String>::new(), "the parts do not come back");
}

#[test]
fn a_kept_lab_stays_until_it_is_taken_down() {
    let lab = Lab::scratch().unwrap();
    let (name, dir) = (lab.name().to_owned(), lab.dir().to_owned());
    let underlay = Underlay::new(&lab).unwrap();
    let host = underlay.host("a", 11).unwrap();
    let sleeper = host.spawn("sleeper", Command::new("sleep").arg("1000")).unwrap();
    let pid = sleeper.pid().unwrap();
    lab.keep().unwrap();
    drop((sleeper, host, underlay, lab));

    let adopted = Lab::adopt(&dir).unwrap();
    let host = adopted.host("a").unwrap();
    assert_eq!(host.ipv4().to_string(), "192.0.2.11");
    let sleeper = adopted.process("a-sleeper").unwrap();
    assert!(sleeper.is_alive() && sleeper.pid() == Some(pid));
    sleeper.restart().unwrap();
    assert!(sleeper.is_alive() && sleeper.pid() != Some(pid));
    drop((sleeper, host, adopted));

    assert!(!traces(&name, &dir).is_empty());
    Lab::take_down(&dir).unwrap();
    assert_eq!(traces(&name, &dir), Vec::<String>::new());
    Lab::take_down(&dir).unwrap();
}

/// Its first thread ends; another one stays for a while.
const LONGER_THAN_ITS_FIRST_THREAD: &str = "
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(1,)).start()
ctypes.CDLL(None).pthread_exit(None)
";

#[test]
fn a_process_has_ended_when_all_its_threads_have() {
    let lab = Lab::scratch().unwrap();
    let process = lab.spawn("threads", Command::new("python3").args(["-c", LONGER_THAN_ITS_FIRST_THREAD])).unwrap();
    let its = format!("/proc/{}", process.pid().unwrap());
    process.wait(Duration::from_secs(60)).unwrap();
    assert!(!fs::exists(its).unwrap(), "{}", process.log_tail(10));
}

#[test]
fn what_was_started_by_hand_goes_with_the_lab_and_nothing_else() {
    let lab = Lab::scratch().unwrap();
    let (name, dir) = (lab.name().to_owned(), lab.dir().to_owned());
    let underlay = Underlay::new(&lab).unwrap();
    let host = underlay.host("a", 11).unwrap();
    let sleep = |command: &mut Command| command.arg("1000").spawn().unwrap();
    let mut parts = [
        sleep(&mut host.netns().command("sleep")),
        sleep(Command::new("sleep").arg0(format!("--config={}/a/part.toml", dir.display()))),
        sleep(Command::new("sleep").current_dir(&dir)),
    ];
    let mut bystander = sleep(Command::new("sleep").arg0(format!("{}-other/x", dir.display())));
    // The lab first, as a take-down finds it: with everything that it has made.
    drop((lab, underlay, host));
    for (number, part) in parts.iter_mut().enumerate() {
        assert!(part.try_wait().unwrap().is_some(), "{number}");
    }
    assert_eq!(traces(&name, &dir), Vec::<String>::new());
    assert!(bystander.try_wait().unwrap().is_none(), "the bystander lives");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

/// Says where a lab is to be that another process interrupts.
const TALKING: &str = "LADON_LAB_TALKING";

/// The other process of the next test.
#[test]
#[ignore = "a part of the next test"]
fn a_lab_that_talks() {
    let Some(dir) = std::env::var_os(TALKING) else { return };
    let lab = Lab::new("talks", &dir).unwrap();
    let _ours = lab.spawn("ours", Command::new("sleep").arg("1000")).unwrap();
    Progress::new().during("talking", || Ok::<_, std::io::Error>(())).unwrap();
    fs::write(lab.dir().join("has-talked"), "").unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn a_lab_to_which_nobody_listens_goes_on_and_ends_when_it_is_told_to() {
    let dir = std::env::temp_dir().join(format!("ladon-talks-{}", std::process::id()));
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_lab_that_talks", "--ignored", "--nocapture"]).env(TALKING, &dir);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    wait::until("the lab to have talked", PATIENCE, || match child.try_wait()? {
        Some(status) => Err(std::io::Error::other(format!("it has ended: {status}"))),
        None => Ok(dir.join("has-talked").exists().then_some(())),
    })
    .unwrap();
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    let status = wait::until("its end", PATIENCE, || child.try_wait()).unwrap();
    assert_eq!(status.signal(), Some(Signal::SIGTERM as i32), "{status}");
    assert_eq!(traces("talks", &dir), Vec::<String>::new());
}

/// A process whose start differs from that of `pid` in /proc, which counts hundredths of a second.
fn started_later_than(pid: i32) -> Child {
    let start = |pid: &dyn std::fmt::Display| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().to_owned()
    };
    wait::until("the clock to tick", Duration::from_secs(60), || {
        let mut child = Command::new("sleep").arg("1000").spawn()?;
        if start(&child.id()) != start(&pid) {
            return Ok(Some(child));
        }
        child.kill()?;
        child.wait()?;
        Ok::<_, std::io::Error>(None)
    })
    .unwrap()
}

#[test]
fn a_reused_process_number_is_never_killed() {
    let lab = Lab::scratch().unwrap();
    let dir = lab.dir().to_owned();
    let ours = lab.spawn("ours", Command::new("sleep").arg("1000")).unwrap();
    lab.keep().unwrap();
    let mut bystander = started_later_than(ours.pid().unwrap());
    let path = dir.join("lab.json");
    let text = fs::read_to_string(&path).unwrap();
    let forged = text.replace(&format!("\"pid\": {}", ours.pid().unwrap()), &format!("\"pid\": {}", bystander.id()));
    assert_ne!(text, forged);
    fs::write(&path, forged).unwrap();
    drop((ours, lab));
    // The forged record names the bystander's number with another start; the mark still finds our own process.
    Lab::take_down(&dir).unwrap();
    assert!(bystander.try_wait().unwrap().is_none(), "the bystander lives");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[test]
fn a_killed_owner_leaves_nothing_to_the_next() {
    let dir = std::env::temp_dir().join(format!("ladon-killed-{}", std::process::id()));
    let lab = Lab::new(&format!("k{}", std::process::id()), &dir).unwrap();
    let ours = lab.spawn("ours", Command::new("sleep").arg("1000")).unwrap();
    let id = ours.pid().unwrap();
    // As kill -9 would: nobody runs the destructors, and the owner is another process that is gone.
    let text = fs::read_to_string(dir.join("lab.json")).unwrap();
    std::mem::forget((ours, lab));
    fs::write(dir.join("lab.json"), text.replace(&format!("\"pid\": {}", std::process::id()), "\"pid\": 4194300")).unwrap();
    let next = Lab::new("next", &dir).unwrap();
    assert!(next.process("ours").is_none());
    let state = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z"), "{state}");
    next.down().unwrap();
    assert!(!dir.exists());
}

#[test]
fn a_command_past_its_deadline_is_ended() {
    let lab = Lab::scratch().unwrap();
    let underlay = Underlay::new(&lab).unwrap();
    let host = underlay.host("a", 11).unwrap();
    let started = Instant::now();
    let error = host.run(host.command("sleep").arg("1000"), 50 * MS).unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(500) && error.to_string().contains("sleep 1000"), "{error}");
}

#[test]
fn names_and_numbers_that_do_not_fit_are_refused() {
    assert!(Lab::new("Not a name", "/tmp/ladon-never").is_err());
    let lab = Lab::scratch().unwrap();
    let underlay = Underlay::new(&lab).unwrap();
    let _a = underlay.host("a", 11).unwrap();
    for (name, number) in [("a", 12), ("b", 11), ("b", 0), ("underlay", 13), ("a-name-too-long", 14)] {
        assert!(underlay.host(name, number).is_err(), "{name} {number}");
    }
    let dead = _a.spawn("dead", Command::new("false").arg("x")).unwrap();
    dead.wait(Duration::from_secs(60)).unwrap();
    let error = dead.wait_until("a miracle", Duration::from_secs(60), || Ok(None::<()>)).unwrap_err();
    assert!(error.to_string().contains("has ended"), "{error}");
}
