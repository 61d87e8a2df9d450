use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::time::sleep;

use super::*;

/// Answers one after the other, each after its time; the last one again and again.
#[derive(Clone, Debug)]
pub(super) struct Script(Arc<Mutex<(VecDeque<Step>, usize)>>);

type Step = (Duration, [Told; 2]);

impl Script {
    pub(super) fn new(steps: impl IntoIterator<Item = Step>) -> (Self, Resolver) {
        let script = Script(Arc::new(Mutex::new((steps.into_iter().collect(), 0))));
        (script.clone(), Resolver(Source::Scripted(script)))
    }

    /// How often it was asked.
    pub(super) fn asked(&self) -> usize {
        self.0.lock().unwrap().1
    }

    pub(super) async fn next(&self) -> [Told; 2] {
        let (wait, told) = {
            let (steps, asked) = &mut *self.0.lock().unwrap();
            *asked += 1;
            let step = if steps.len() > 1 { steps.pop_front() } else { steps.front().cloned() };
            step.unwrap()
        };
        sleep(wait).await;
        told
    }
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("seawall-resolve-{}-{name}", std::process::id());
        let folder = Folder(env::temp_dir().join(name));
        std::fs::create_dir_all(&folder.0).unwrap();
        folder
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn found(told: &[Told; 2]) -> Vec<String> {
    told.iter().flatten().flat_map(|(found, _)| found).map(IpAddr::to_string).collect()
}

const LIMIT: Duration = Duration::from_secs(2);

#[tokio::test]
async fn hosts_come_before_dns_and_are_read_anew() {
    let folder = Folder::new("hosts");
    // Nobody may be asked: the question would fail.
    let resolv_conf = folder.0.clone();
    let hosts = folder.write("hosts", "10.0.0.1 app.test\nfd00::1 app.test\n10.0.0.9 localhost\n");
    let resolver = Resolver::with_files(&resolv_conf, &hosts);
    assert_eq!(found(&resolver.addresses("app.test", LIMIT).await), ["10.0.0.1", "fd00::1"]);
    assert_eq!(found(&resolver.addresses("APP.test.", LIMIT).await), ["10.0.0.1", "fd00::1"]);
    assert_eq!(found(&resolver.addresses("localhost", LIMIT).await), ["10.0.0.9"]);
    folder.write("hosts", "10.0.0.2 app.test\n");
    assert_eq!(found(&resolver.addresses("app.test", LIMIT).await), ["10.0.0.2"]);
    let loopback = ["127.0.0.1", "::1"];
    for name in ["localhost", "LOCALHOST.", "app.localhost"] {
        assert_eq!(found(&resolver.addresses(name, LIMIT).await), loopback, "{name}");
    }
    let none = resolver.addresses("app.invalid", LIMIT).await;
    assert!(none.iter().all(|told| matches!(told, Err(Silence::Empty))), "{none:?}");
    // A folder is no file: what cannot be read is an error, and no end.
    let failed = resolver.addresses("other.test", LIMIT).await;
    assert!(failed.iter().all(|told| matches!(told, Err(Silence::Error(_)))), "{failed:?}");
}

#[tokio::test]
async fn missing_files_leave_loopback_names_and_the_server_of_this_machine() {
    let folder = Folder::new("missing");
    let resolver = Resolver::with_files(folder.0.join("none"), folder.0.join("none"));
    assert_eq!(found(&resolver.addresses("localhost", LIMIT).await), ["127.0.0.1", "::1"]);
    for text in [None, Some("# nothing\n"), Some("search a.test\n")] {
        let path = folder.0.join("resolv.conf");
        text.iter().for_each(|text| _ = folder.write("resolv.conf", text));
        let (config, _) = system(&path).unwrap();
        let servers: Vec<_> = config.name_servers().iter().map(|server| server.ip).collect();
        assert_eq!(servers, [IpAddr::from(Ipv4Addr::LOCALHOST)], "{text:?}");
    }
}

#[test]
fn search_list_and_ndots_are_those_of_the_file() {
    let folder = Folder::new("search");
    let kubernetes = "nameserver 10.0.0.53\n\
        search apps.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n";
    let rows: [(&str, &str, &[&str]); 7] = [
        (
            kubernetes,
            "app",
            &[
                "app.apps.svc.cluster.local.",
                "app.svc.cluster.local.",
                "app.cluster.local.",
                "app.",
            ],
        ),
        (
            kubernetes,
            "app.test",
            &[
                "app.test.apps.svc.cluster.local.",
                "app.test.svc.cluster.local.",
                "app.test.cluster.local.",
                "app.test.",
            ],
        ),
        (kubernetes, "app.test.", &["app.test."]),
        (
            kubernetes,
            "a.b.c.d.e.f",
            &[
                "a.b.c.d.e.f.",
                "a.b.c.d.e.f.apps.svc.cluster.local.",
                "a.b.c.d.e.f.svc.cluster.local.",
                "a.b.c.d.e.f.cluster.local.",
            ],
        ),
        ("nameserver 10.0.0.53\nsearch lan\n", "app.test", &["app.test.", "app.test.lan."]),
        ("nameserver 10.0.0.53\ndomain lan\n", "my_app", &["my_app.lan.", "my_app."]),
        ("nameserver 10.0.0.53\nsearch .\n", "app", &["app."]),
    ];
    for (text, name, expected) in rows {
        let path = folder.write("resolv.conf", text);
        let (config, options) = system(&path).unwrap();
        let names = searched(DnsName::from_ascii(name).unwrap(), &config, options.ndots);
        let names: Vec<_> = names.iter().map(DnsName::to_ascii).collect();
        assert_eq!(names, expected, "{text} {name}");
    }
}

#[test]
fn malformed_search_domains_leave_the_others() {
    let folder = Folder::new("malformed");
    let label = "a".repeat(64);
    for (search, expected) in [
        ("search -bad_.x lan", &["app.lan.", "app."][..]),
        ("search lan a..b", &["app.lan.", "app."]),
        (&format!("search\t{label}.test lan\r"), &["app.lan.", "app."]),
        ("search -bad_.x", &["app."]),
        ("search", &["app."]),
    ] {
        let path = folder.write("resolv.conf", &format!("nameserver 10.0.0.53\n{search}\n"));
        let (config, options) = system(&path).unwrap();
        let names = searched(DnsName::from_ascii("app").unwrap(), &config, options.ndots);
        let names: Vec<_> = names.iter().map(DnsName::to_ascii).collect();
        assert_eq!(names, expected, "{search}");
    }
}

#[test]
fn only_records_of_the_name_and_of_its_aliases_answer_a_question() {
    let name = |text: &str| DnsName::from_ascii(text).unwrap();
    let a = |owner: &str, last| {
        Record::from_rdata(name(owner), 60, RData::A(Ipv4Addr::new(10, 0, 0, last).into()))
    };
    let six =
        |owner: &str| Record::from_rdata(name(owner), 60, RData::AAAA(Ipv6Addr::LOCALHOST.into()));
    let alias = |owner: &str, target: &str| {
        let target = hickory_resolver::proto::rr::rdata::CNAME(name(target));
        Record::from_rdata(name(owner), 60, RData::CNAME(target))
    };
    let used = |told: &[Record]| {
        let records = answering(&name("app.test."), RecordType::A, told);
        let addresses = records.iter().filter_map(|record| match record.data {
            RData::A(address) => Some(address.octets()[3]),
            RData::AAAA(_) => Some(0),
            _ => None,
        });
        addresses.collect::<Vec<_>>()
    };
    assert_eq!(used(&[a("app.test.", 1), a("APP.test.", 2)]), [1, 2]);
    assert_eq!(used(&[a("other.test.", 9), a("app.test.", 1)]), [1], "poisoned");
    assert_eq!(used(&[six("app.test."), a("app.test.", 1)]), [1], "another type");
    assert_eq!(used(&[a("other.test.", 9)]), [] as [u8; 0]);
    assert_eq!(used(&[alias("app.test.", "b.test."), a("b.test.", 1), a("c.test.", 9)]), [1]);
    let turned = [a("c.test.", 1), alias("b.test.", "c.test."), alias("app.test.", "b.test.")];
    assert_eq!(used(&turned), [1], "whatever the order");
    let circle = [alias("app.test.", "b.test."), alias("b.test.", "app.test."), a("b.test.", 1)];
    assert_eq!(used(&circle), [1]);
    let foreign = [alias("x.test.", "b.test."), a("b.test.", 9), a("app.test.", 1)];
    assert_eq!(used(&foreign), [1], "an alias of another name");
    let link = |at: usize| alias(&format!("n{at}.test."), &format!("n{}.test.", at + 1));
    let mut chain: Vec<_> = (0..4_000).map(link).collect();
    chain.push(alias("app.test.", "n0.test."));
    let records = answering(&name("app.test."), RecordType::A, &chain);
    assert_eq!(records.len(), MOST_ALIASES, "a peer chooses its length");
}

#[test]
fn old_forms_of_ipv4_addresses_are_read_as_they_always_were() {
    for (text, expected) in [
        ("127.1", Some("127.0.0.1")),
        ("127.0.1", Some("127.0.0.1")),
        ("2130706433", Some("127.0.0.1")),
        ("0x7f000001", Some("127.0.0.1")),
        ("0x7f.0.0.01", Some("127.0.0.1")),
        ("0177.0.0.1", Some("127.0.0.1")),
        ("10.0.0.1", Some("10.0.0.1")),
        ("0", Some("0.0.0.0")),
        ("4294967295", Some("255.255.255.255")),
        ("4294967296", None),
        ("256.1", None),
        ("1.2.3.256", None),
        ("1.2.3.4.5", None),
        ("08.1", None),
        ("0x", None),
        ("1.", None),
        ("+1", None),
        ("dead.1", None),
        ("app", None),
        ("", None),
    ] {
        let read = ipv4_of(text).map(|address| address.to_string());
        assert_eq!(read.as_deref(), expected, "{text}");
    }
}
