//! A real virtual machine under software emulation: Debian's cloud kernel, busybox, a virtio network card on a tap.
//!
//! The tap is made in a host's namespace and is not plugged anywhere: that is what [`crate::Ovs::plug_like_nova`] is for.
//! The guest configures its interface by DHCP and router advertisements, serves its name over HTTP on port 80 and an echo
//! by TCP and UDP on port 7, and obeys commands on a serial port, so that its network need not work for it to be looked
//! into. Its program `talk` asks others by TCP and UDP. Stateful DHCPv6 is not in Debian's busybox, hence not in the guest.

mod archive;
mod image;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Doing, LabError, Result};
use crate::host::Host;
use crate::lab::tail;
use crate::process::Process;

pub use image::{VmImage, cache_dir, image};

/// How long a guest may take to boot on a busy machine without hardware virtualisation.
const BOOT: Duration = Duration::from_secs(300);
/// How long a command in the guest may take, unless told otherwise.
const COMMAND: Duration = Duration::from_secs(120);
/// What the guest says on its console when it obeys.
const BOOTED: &str = "guest obeys";
/// The guest's memory.
const MEMORY_MIB: u32 = 256;
/// The longest name of a network interface.
const INTERFACE_NAME_MAX: usize = 15;

/// A running virtual machine.
pub struct Vm {
    name: String,
    tap: String,
    host: Host,
    console: PathBuf,
    shell: PathBuf,
    process: Process,
}

/// How a command in the guest ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Said {
    pub exit: i32,
    pub output: String,
}

impl Said {
    /// What it printed, or an error that says what it printed.
    pub fn ok(self) -> Result<String> {
        if self.exit == 0 {
            return Ok(self.output);
        }
        Err(LabError::Unfit(format!("a command in the guest ended with {}: {}", self.exit, self.output.trim())))
    }
}

impl Vm {
    /// Make the tap on `host` and boot a guest behind it. It returns while the guest boots; [`Vm::wait_booted`] waits.
    pub fn start(host: &Host, image: &VmImage, name: &str, tap: &str, mac: &str) -> Result<Vm> {
        crate::lab::check_name(name)?;
        if tap.is_empty() || tap.len() > INTERFACE_NAME_MAX {
            return Err(LabError::Unfit(format!("{tap:?} is no interface name: 1 to {INTERFACE_NAME_MAX} bytes")));
        }
        let folder = host.folder(&format!("vm-{name}"))?;
        let shell = folder.join("shell");
        let console = host.lab().folder("log")?.join(format!("{}-vm-{name}.console", host.name()));
        host.netns().ip(&[format!("tuntap add dev {tap} mode tap"), format!("link set {tap} up")])?;
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-accel", "tcg", "-cpu", "max", "-nographic", "-nodefaults", "-no-reboot"]);
        qemu.args(["-m", &MEMORY_MIB.to_string()]);
        qemu.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&image.initrd);
        qemu.args(["-append", &format!("console=ttyS0 quiet panic=-1 net.ifnames=0 name={name}")]);
        // The userspace datapath knows no virtio header: without it the guest computes every checksum itself.
        qemu.args(["-netdev", &format!("tap,id=n0,ifname={tap},script=no,downscript=no,vnet_hdr=off")]);
        qemu.args(["-device", &format!("virtio-net-pci,netdev=n0,mac={mac},romfile=")]);
        qemu.args(["-serial", &format!("file:{}", console.display())]);
        qemu.args(["-serial", &format!("unix:{},server=on,wait=off", shell.display())]);
        let process = host.spawn(&format!("vm-{name}"), &qemu)?;
        Ok(Vm { name: name.into(), tap: tap.into(), host: host.clone(), console, shell, process })
    }

    /// Wait until the guest obeys commands.
    pub fn wait_booted(&self) -> Result<()> {
        let is_up = || Ok(tail(&self.console, 5).contains(BOOTED).then_some(()));
        self.process.wait_until(&format!("{} to boot (console: {})", self.name, self.console.display()), BOOT, is_up)
    }

    /// Its name, which is also the guest's host name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its tap on the host.
    pub fn tap(&self) -> &str {
        &self.tap
    }

    /// The emulator.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Run one line of shell in the guest.
    pub fn run(&self, command: &str) -> Result<Said> {
        self.run_within(command, COMMAND)
    }

    /// Run one line of shell in the guest, with a deadline. The guest runs one command at a time; a line past its deadline
    /// still runs to its end before the next.
    pub fn run_within(&self, command: &str, deadline: Duration) -> Result<Said> {
        if command.contains('\n') {
            return Err(LabError::Unfit("a command in the guest is one line".into()));
        }
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let token = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let talking = || format!("talking to {} over {}", self.name, self.shell.display());
        let mut line = UnixStream::connect(&self.shell).doing(talking)?;
        line.write_all(format!("{token} {command}\n").as_bytes()).doing(talking)?;
        let (started, mut heard, mut buffer) = (Instant::now(), Vec::new(), [0; 4096]);
        loop {
            if let Some(said) = parse(&String::from_utf8_lossy(&heard), &token) {
                return Ok(said);
            }
            let waited = started.elapsed();
            if waited >= deadline {
                let (what, last) = (format!("`{command}` in {}", self.name), String::from_utf8_lossy(&heard).into_owned());
                return Err(LabError::TimedOut { what, waited, last });
            }
            line.set_read_timeout(Some(deadline - waited)).doing(talking)?;
            match line.read(&mut buffer) {
                Ok(0) => return Err(LabError::Unfit(format!("{} hung up during `{command}`", self.name))),
                Ok(length) => heard.extend(&buffer[..length]),
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
                Err(error) => return Err(error).doing(talking),
            }
        }
    }

    /// Switch it off and remove its tap.
    pub fn stop(self) -> Result<()> {
        let (host, tap) = (self.host.clone(), self.tap.clone());
        drop(self);
        host.netns().ip(&[format!("link delete {tap}")])
    }
}

/// What stands between the two lines with our token; an earlier command's late output comes before them.
fn parse(heard: &str, token: &str) -> Option<Said> {
    let (_, rest) = heard.split_once(&format!("<<{token}<<"))?;
    let (output, end) = rest.rsplit_once(&format!(">>{token} "))?;
    let exit = end.split_once(">>")?.0.parse().ok()?;
    let output = output.replace("\r\n", "\n");
    Some(Said { exit, output: output.strip_prefix('\n').unwrap_or(&output).to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_output_of_another_command_is_not_ours() {
        let heard = "late\n>>1-1 0>>\n<<1-2<<\nhello\n>>1-2 3>>\n";
        assert_eq!(parse(heard, "1-2"), Some(Said { exit: 3, output: "hello\n".into() }));
        assert_eq!(parse("<<1-2<<\nhello\n", "1-2"), None);
    }
}
