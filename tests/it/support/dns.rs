//! A DNS server whose answers a test decides, and which keeps what it was asked.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{CNAME, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

/// How the server behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// It answers from its table; a name that is not there does not exist.
    Answers,
    /// It reads questions and says nothing.
    Silent,
    /// It answers each question with this code.
    Fails(ResponseCode),
}

type Records = HashMap<String, Vec<(u32, RData)>>;

#[derive(Debug)]
struct State {
    mood: Mutex<Mood>,
    records: Mutex<Records>,
    asked: Mutex<Vec<(String, RecordType)>>,
    stopped: AtomicBool,
}

/// A DNS server on loopback, over UDP.
#[derive(Debug)]
pub struct Dns {
    address: SocketAddr,
    state: Arc<State>,
}

fn name(text: &str) -> Name {
    Name::from_ascii(format!("{}.", text.trim_end_matches('.'))).unwrap()
}

impl Dns {
    /// Begins to answer.
    pub fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let state = Arc::new(State {
            mood: Mutex::new(Mood::Answers),
            records: Mutex::default(),
            asked: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((count, from)) = socket.recv_from(&mut buffer) {
                if shared.stopped.load(Ordering::Relaxed) {
                    return;
                }
                if let Some(answer) = shared.answer(&buffer[..count]) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Dns { address, state }
    }

    /// Where it is asked.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes how it behaves.
    pub fn set_mood(&self, mood: Mood) {
        *self.state.mood.lock().unwrap() = mood;
    }

    fn set(&self, name: &str, records: Vec<(u32, RData)>) {
        self.state.records.lock().unwrap().insert(name.to_owned(), records);
    }

    /// The name has these addresses from now on.
    pub fn set_addresses(&self, name: &str, ttl: u32, addresses: &[&str]) {
        let data = |address: &&str| match address.parse().unwrap() {
            IpAddr::V4(address) => RData::A(address.into()),
            IpAddr::V6(address) => RData::AAAA(address.into()),
        };
        self.set(name, addresses.iter().map(|address| (ttl, data(address))).collect());
    }

    /// The name is another name for `target` from now on.
    pub fn set_alias(&self, from: &str, target: &str) {
        self.set(from, vec![(60, RData::CNAME(CNAME(name(target))))]);
    }

    /// The service is at this target from now on.
    pub fn set_service(&self, service: &str, target: &str, port: u16) {
        self.set(service, vec![(60, RData::SRV(SRV::new(0, 1, port, name(target))))]);
    }

    /// How often it was asked for these records of the name.
    pub fn asked(&self, name: &str, records: RecordType) -> usize {
        let asked = self.state.asked.lock().unwrap();
        asked.iter().filter(|(known, kind)| known == name && *kind == records).count()
    }
}

impl State {
    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        let question = Message::from_vec(question).ok()?;
        let query = question.queries.first()?.clone();
        let asked = query.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
        self.asked.lock().unwrap().push((asked.clone(), query.query_type()));
        let mood = *self.mood.lock().unwrap();
        let mut answer = question.into_response();
        match mood {
            Mood::Silent => return None,
            Mood::Fails(code) => answer.metadata.response_code = code,
            Mood::Answers => {
                let records = self.records.lock().unwrap();
                if !records.contains_key(&asked) {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                }
                let mut next = Some(asked);
                while let Some(at) = next.take() {
                    for (ttl, data) in records.get(&at).into_iter().flatten() {
                        if let RData::CNAME(CNAME(target)) = data {
                            let target = target.to_ascii();
                            next = Some(target.trim_end_matches('.').to_owned());
                        } else if data.record_type() != query.query_type() {
                            continue;
                        }
                        answer.add_answer(Record::from_rdata(name(&at), *ttl, data.clone()));
                    }
                }
            }
        }
        answer.to_vec().ok()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::Relaxed);
        // Wakes its thread, which ends then.
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let _ = socket.send_to(b"end", self.address);
    }
}
