//! What the process gives up once it listens: all files and TCP ports but those that its configuration
//! names and the system needs. Whoever gets hold of the process gets no more.
//!
//! By Landlock (landlock(7)), which counts for the thread that asks for it and for those that it starts
//! later, and never ends.

use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, RulesetStatus, make_bitflags,
};

use crate::config::{Address, Config, Socket};

/// The newest version of Landlock whose restrictions are known here: file system, TCP, and devices.
const VERSION: ABI = ABI::V5;
/// For the names of hosts (resolv.conf(5), nsswitch.conf(5) and its modules), the authorities of `roots =
/// "system"`, and the process's own figures. All of a directory: its files are replaced by others.
const OF_THE_SYSTEM: [&str; 9] = [
    "/etc",
    "/lib",
    "/lib64",
    "/proc/self",
    "/run/NetworkManager",
    "/run/resolvconf",
    "/run/systemd/resolve",
    "/usr/lib",
    "/usr/share/ca-certificates",
];
/// What may be a link to somewhere else.
const LINKS: [&str; 7] = [
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];
/// What names other authorities of `roots = "system"`.
const AUTHORITIES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];
/// A look-up whose answer is long goes by TCP (RFC 7766).
const DNS_PORT: u16 = 53;

/// How much of it the kernel enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confinement {
    /// All.
    Whole,
    /// What it can.
    Partial,
    /// Nothing: it is older than Landlock, or has it turned off.
    None,
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Whole => "whole",
            Self::Partial => "partial",
            Self::None => "none",
        })
    }
}

/// What the process needs from now on.
#[derive(Debug, Default, PartialEq, Eq)]
struct Needs {
    /// Directories whose files are read.
    read: BTreeSet<PathBuf>,
    /// Directories whose files are replaced.
    write: BTreeSet<PathBuf>,
    /// Directories of sockets, which are removed at the end.
    sockets: BTreeSet<PathBuf>,
    /// Where it connects to.
    ports: BTreeSet<u16>,
}

/// Gives up all but what this configuration, which is in this `file` if in any, needs: for the calling thread and all that it starts.
///
/// # Errors
/// When the kernel refuses what it claims to know.
pub fn confine(config: &Config, file: Option<&Path>) -> Result<Confinement, RulesetError> {
    Needs::of(config, file).confine()
}

impl Needs {
    fn of(config: &Config, file: Option<&Path>) -> Self {
        let mut needs = Self {
            read: OF_THE_SYSTEM.map(PathBuf::from).into(),
            ports: [DNS_PORT, config.upstream.origin.port, config.token.origin.port].into(),
            ..Self::default()
        };
        let authorities = [&config.upstream.trust, &config.token.trust].map(|trust| trust.ca_file.as_deref());
        let read_again = authorities.into_iter().chain([file]).flatten();
        let named = AUTHORITIES.iter().filter_map(std::env::var_os).map(PathBuf::from);
        for path in LINKS.map(PathBuf::from).into_iter().chain(named) {
            needs.read.extend(directories(&path));
        }
        for path in config.secret_files().chain(read_again) {
            needs.read.extend(directories(path));
        }
        if let Some(identity) = &config.upstream.identity {
            needs.read.extend(directories(&identity.files.certificate));
        }
        needs.write.extend(config.token.state_file.iter().flat_map(|path| directories(path)));
        if let Socket::Own(Address::Unix(path)) = &config.listen.address {
            needs.sockets.extend(directories(path));
        }
        needs
    }

    /// Of the root directory all files are beside.
    fn keeps_everything(&self) -> bool {
        self.read.iter().chain(&self.write).any(|directory| directory == Path::new("/"))
    }

    fn confine(&self) -> Result<Confinement, RulesetError> {
        let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
        let write = read | make_bitflags!(AccessFs::{WriteFile | MakeReg | RemoveFile | Truncate});
        let mut rules = Ruleset::default()
            .handle_access(AccessFs::from_all(VERSION))?
            .handle_access(AccessNet::from_all(VERSION))?
            .create()?;
        for (directories, access) in
            [(&self.read, read), (&self.write, write), (&self.sockets, AccessFs::RemoveFile.into())]
        {
            rules = allow(rules, directories, access)?;
        }
        for port in &self.ports {
            rules = rules.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
        }
        Ok(match rules.restrict_self()?.ruleset {
            RulesetStatus::FullyEnforced if self.keeps_everything() => {
                tracing::warn!("a configured file is in the root directory: all files stay in the process's reach");
                Confinement::Partial
            }
            RulesetStatus::FullyEnforced => Confinement::Whole,
            RulesetStatus::PartiallyEnforced => Confinement::Partial,
            RulesetStatus::NotEnforced => Confinement::None,
        })
    }
}

/// Where a file is: by its name and, if that is a link, by what it leads to. Not the file itself, which may be replaced.
fn directories(path: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let real = fs::canonicalize(path).ok();
    [Some(path.to_owned()), real].into_iter().flatten().filter_map(|path| {
        let parent = path.parent()?;
        Some(if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() })
    })
}

/// What is not there cannot be opened either way.
fn allow(
    rules: RulesetCreated,
    directories: &BTreeSet<PathBuf>,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    let there = directories.iter().filter_map(|path| PathFd::new(path).ok());
    rules.add_rules(there.map(|directory| Ok(PathBeneath::new(directory, access))))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::ErrorKind,
        net::{TcpListener, TcpStream},
        os::unix::fs::symlink,
        path::PathBuf,
        process::Command,
        thread,
    };

    use super::{Confinement, Needs, directories};

    #[test]
    fn a_file_is_looked_for_where_it_is_and_where_its_link_leads() {
        let places = tempfile::tempdir().expect("a directory");
        let real = places.path().join("real");
        fs::create_dir(&real).expect("writable");
        fs::write(real.join("secret"), "s3cret").expect("writable");
        let link = places.path().join("link");
        symlink(real.join("secret"), &link).expect("a free name");
        let found: Vec<PathBuf> = directories(&link).collect();
        assert_eq!(found, [places.path().to_owned(), fs::canonicalize(real).expect("it is there")]);
        let found: Vec<PathBuf> = directories("secret".as_ref()).collect();
        assert_eq!(found, [PathBuf::from(".")]);
    }

    #[test]
    fn a_file_in_the_root_directory_keeps_everything_in_reach() {
        let of = |path: &str| Needs { read: directories(path.as_ref()).collect(), ..Needs::default() };
        assert!(of("/nowhere-secret").keeps_everything());
        assert!(!of("/run/nowhere/secret").keeps_everything());
    }

    #[test]
    fn a_confined_thread_has_its_directories_and_ports_and_no_others() {
        let [ours, theirs, state] = [0; 3].map(|_| tempfile::tempdir().expect("a directory"));
        fs::write(ours.path().join("secret"), "s3cret").expect("writable");
        fs::write(theirs.path().join("ledger"), "1000000").expect("writable");
        let [open, closed] = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let [open, closed] = [&open, &closed].map(|port| port.local_addr().expect("it is bound"));
        let needs = Needs {
            read: [ours.path().to_owned()].into(),
            write: [state.path().to_owned()].into(),
            ports: [open.port()].into(),
            ..Needs::default()
        };
        // It ends with its thread.
        let confined = thread::spawn(move || {
            assert_eq!(needs.confine().expect("the kernel agrees"), Confinement::Whole, "this needs Linux 6.10");
            let refused = |kind: Option<ErrorKind>| kind == Some(ErrorKind::PermissionDenied);

            assert_eq!(fs::read_to_string(ours.path().join("secret")).expect("allowed"), "s3cret");
            fs::rename(ours.path().join("secret"), ours.path().join("other")).expect_err("it is not for writing");
            assert!(refused(fs::read(theirs.path().join("ledger")).err().map(|e| e.kind())));
            assert!(refused(fs::write(theirs.path().join("new"), "").err().map(|e| e.kind())));

            let (new, file) = (state.path().join("state.new"), state.path().join("state"));
            fs::write(&new, "1").expect("allowed");
            fs::rename(&new, &file).expect("allowed");
            fs::write(&file, "2").expect("allowed");
            fs::remove_file(&file).expect("allowed");

            TcpStream::connect(open).expect("allowed");
            assert!(refused(TcpStream::connect(closed).err().map(|e| e.kind())));
            assert!(refused(TcpListener::bind("127.0.0.1:0").err().map(|e| e.kind())));
            assert!(refused(Command::new("/bin/true").spawn().err().map(|e| e.kind())));
        });
        confined.join().expect("it is confined as it should be");
    }
}
