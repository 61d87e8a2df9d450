//! A day of a WebSocket in no time: every timer, on paused time.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{Instant, advance, timeout};

use super::*;
use crate::websocket::close;
use crate::websocket::frame::{self, CLOSE, PING, PONG, TEXT};

/// Both ends of a relay that runs.
struct Scene {
    client: DuplexStream,
    upstream: DuplexStream,
    started: Instant,
    drain: Option<oneshot::Sender<()>>,
    relay: JoinHandle<(Report, Vec<String>)>,
}

impl Scene {
    /// Pipes that hold so many bytes.
    fn with_pipes(size: usize) -> Self {
        Scene::set(size, Settings::default())
    }

    fn under(settings: Settings) -> Self {
        Scene::set(1024, settings)
    }

    fn set(size: usize, settings: Settings) -> Self {
        let (client, mut near_client) = duplex(size);
        let (upstream, mut near_upstream) = duplex(size);
        let (drain, drained) = oneshot::channel();
        let relay = spawn_local(async move {
            let (witness, scratch) = (Witness::default(), Scratch::new(READ));
            let terms = Terms {
                opening: Opening::default(),
                agreed: Agreed { rsv: 0 },
                settings: &settings,
                scratch: &scratch,
            };
            let drained = async {
                if drained.await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let report =
                relay(&mut near_client, &mut near_upstream, terms, &witness, drained).await;
            (report, witness.events())
        });
        let started = Instant::now();
        Scene { client, upstream, started, drain: Some(drain), relay }
    }

    fn new() -> Self {
        Scene::with_pipes(1024)
    }

    fn seconds(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    async fn end(self) -> (Report, Vec<String>) {
        timeout(Duration::from_secs(3600), self.relay).await.unwrap().unwrap()
    }
}

async fn on_stage<T>(play: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(play).await
}

/// One small frame: first byte and unmasked payload.
async fn read(stream: &mut DuplexStream) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await.unwrap();
    let mut key = [0; 4];
    if head[1] & 0x80 != 0 {
        stream.read_exact(&mut key).await.unwrap();
    }
    let mut payload = vec![0; usize::from(head[1] & 0x7F)];
    stream.read_exact(&mut payload).await.unwrap();
    frame::mask(&mut payload, key);
    (head[0], payload)
}

fn said(code: u16, reason: &str) -> (u8, Vec<u8>) {
    (0x80 | CLOSE, close::payload(code, reason))
}

async fn say_as_client(scene: &mut Scene, opcode: u8, payload: &[u8]) {
    let frame = frame::control(opcode, payload, Some([1, 2, 3, 4]));
    scene.client.write_all(&frame).await.unwrap();
}

async fn say_as_upstream(scene: &mut Scene, opcode: u8, payload: &[u8]) {
    scene.upstream.write_all(&frame::control(opcode, payload, None)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_answers_no_ping_is_closed_as_1011() {
    on_stage(async {
        let mut scene = Scene::new();
        // The client lives: it talks every second.
        let (opcode, token) = read(&mut scene.upstream).await;
        assert_eq!((opcode, token.len(), scene.seconds()), (0x80 | PING, 8, 20));
        let (_, client_token) = read(&mut scene.client).await;
        say_as_client(&mut scene, PONG, &client_token).await;
        assert_eq!(read(&mut scene.client).await, said(1011, "connection_read_timeout"));
        assert_eq!(scene.seconds(), 30);
        say_as_client(&mut scene, CLOSE, &close::payload(1011, "")).await;
        let (report, events) = scene.end().await;
        assert_eq!(events, ["upstream: connection_read_timeout"]);
        assert_eq!((report.summary.code, report.summary.initiator), (1011, "upstream"));
        assert!(report.abort_upstream, "nobody waits for an app that hangs");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_no_ping_is_gone_and_the_upstream_gets_1001() {
    on_stage(async {
        let mut scene = Scene::new();
        let (_, token) = read(&mut scene.upstream).await;
        say_as_upstream(&mut scene, PONG, &token).await;
        assert_eq!(read(&mut scene.upstream).await, said(1001, ""));
        assert_eq!(scene.seconds(), 30);
        say_as_upstream(&mut scene, CLOSE, &close::payload(1001, "")).await;
        let (report, events) = scene.end().await;
        assert_eq!(events, ["client: client_gone"]);
        assert_eq!(report.summary.initiator, "client");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn two_sides_that_answer_pings_stay_for_a_day_and_hear_nothing_of_it() {
    on_stage(async {
        let mut scene = Scene::new();
        let day = Duration::from_secs(24 * 3600);
        let mut pings = 0;
        while scene.started.elapsed() < day {
            let (opcode, token) = read(&mut scene.upstream).await;
            assert_eq!(opcode, 0x80 | PING);
            say_as_upstream(&mut scene, PONG, &token).await;
            let (opcode, token) = read(&mut scene.client).await;
            assert_eq!(opcode, 0x80 | PING, "the upstream's pong stayed with us");
            say_as_client(&mut scene, PONG, &token).await;
            pings += 1;
        }
        assert_eq!(pings, 24 * 3600 / 20);
        // A pong that nobody asked for is between the two sides.
        say_as_upstream(&mut scene, PONG, b"hello").await;
        assert_eq!(read(&mut scene.client).await, (0x80 | PONG, b"hello".to_vec()));
        drop(scene.client);
        drop(scene.upstream);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_talks_is_not_pinged() {
    on_stage(async {
        let mut scene = Scene::new();
        for _ in 0..100 {
            advance(Duration::from_secs(15)).await;
            say_as_upstream(&mut scene, TEXT, b"tick").await;
            assert_eq!(read(&mut scene.client).await, (0x80 | TEXT, b"tick".to_vec()));
            say_as_client(&mut scene, TEXT, b"tock").await;
            assert_eq!(read(&mut scene.upstream).await, (0x80 | TEXT, b"tock".to_vec()));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_answers_a_close_is_let_go_after_the_close_timeout() {
    on_stage(async {
        let mut scene = Scene::new();
        say_as_upstream(&mut scene, CLOSE, &close::payload(1000, "bye")).await;
        assert_eq!(read(&mut scene.client).await, said(1000, "bye"));
        let (started, mut upstream) = (scene.started, scene.upstream);
        let (report, events) =
            timeout(Duration::from_secs(60), scene.relay).await.unwrap().unwrap();
        assert!(started.elapsed() <= Duration::from_secs(10), "{:?}", started.elapsed());
        assert_eq!((report.summary.code, events.len()), (1000, 0));
        // The upstream is not left without an answer.
        assert_eq!(read(&mut upstream).await.0, 0x80 | CLOSE);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_never_answers_a_close_does_not_keep_the_client() {
    on_stage(async {
        let mut scene = Scene::new();
        say_as_client(&mut scene, CLOSE, &close::payload(4000, "enough")).await;
        assert_eq!(read(&mut scene.upstream).await, said(4000, "enough"));
        assert_eq!(read(&mut scene.client).await, said(4000, ""));
        assert_eq!(scene.seconds(), 5);
        assert_eq!(scene.client.read(&mut [0; 1]).await.unwrap(), 0, "and its end");
        let (report, events) = scene.end().await;
        assert_eq!((report.summary.code, report.summary.initiator), (4000, "client"));
        assert_eq!(events, Vec::<String>::new(), "the client has what it wanted");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_is_let_go_before_the_upstream_has_answered() {
    on_stage(async {
        let mut scene = Scene::new();
        // Unmasked: the client's fault.
        scene.client.write_all(b"\x81\x01x").await.unwrap();
        let (first, payload) = read(&mut scene.client).await;
        assert_eq!((first, &payload[..2]), (0x80 | CLOSE, &1002_u16.to_be_bytes()[..]));
        assert_eq!(read(&mut scene.upstream).await, said(1001, ""));
        assert_eq!(scene.client.read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!(scene.seconds(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_does_not_read_becomes_1011() {
    on_stage(async {
        let mut scene = Scene::with_pipes(64);
        let mut frame = vec![0x82, 0xFE, 0x04, 0x00, 0, 0, 0, 0];
        frame.extend([0; 1024]);
        let (mut reader, mut writer) = tokio::io::split(scene.client);
        // The upstream lives, it only does not read.
        let writing = spawn_local(async move { writer.write_all(&frame).await });
        let mut head = [0; 2];
        loop {
            reader.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; usize::from(head[1])];
            reader.read_exact(&mut payload).await.unwrap();
            if head[0] == 0x80 | CLOSE {
                assert_eq!(payload, close::payload(1011, "connection_write_timeout"));
                break;
            }
        }
        assert_eq!(scene.started.elapsed().as_secs(), 30);
        writing.abort();
        drop(reader);
        scene.drain.take();
        let (report, events) =
            timeout(Duration::from_secs(60), scene.relay).await.unwrap().unwrap();
        assert_eq!(events, ["upstream: connection_write_timeout"]);
        assert!(report.abort_upstream);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_holds_the_upstream_back_and_is_given_up() {
    on_stage(async {
        let scene = Scene::with_pipes(64);
        let mut upstream = scene.upstream;
        let mut taken = 0;
        let frame = frame::control(TEXT, &[b'x'; 125], None);
        // Until nothing is taken for a second.
        while let Ok(Ok(())) = timeout(Duration::from_secs(1), upstream.write_all(&frame)).await {
            taken += frame.len();
        }
        assert!(taken < 2 * READ, "{taken} bytes for a client that reads none");
        let (report, events) =
            timeout(Duration::from_secs(120), scene.relay).await.unwrap().unwrap();
        assert_eq!(events, ["client: client_gone"]);
        assert_eq!(report.summary.initiator, "client");
        drop(scene.client);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_says_1012_to_the_client_and_1001_to_the_upstream() {
    on_stage(async {
        let mut scene = Scene::new();
        scene.drain.take().unwrap().send(()).unwrap();
        assert_eq!(read(&mut scene.client).await.1[..2], 1012_u16.to_be_bytes());
        assert_eq!(read(&mut scene.upstream).await, said(1001, ""));
        say_as_client(&mut scene, CLOSE, &close::payload(1012, "")).await;
        say_as_upstream(&mut scene, CLOSE, &close::payload(1001, "")).await;
        let started = scene.started;
        let (report, events) = scene.end().await;
        assert_eq!((report.summary.code, report.summary.initiator), (1012, "seawall"));
        assert_eq!(events, Vec::<String>::new());
        assert_eq!(started.elapsed().as_secs(), 0);
    })
    .await;
}

/// When each of many sessions got this Close, in seconds.
async fn turns(sessions: Vec<Scene>, code: u16) -> Vec<u64> {
    let mut turns = Vec::new();
    for mut scene in sessions {
        turns.push(spawn_local(async move {
            let (first, payload) = read(&mut scene.client).await;
            assert_eq!((first, &payload[..2]), (0x80 | CLOSE, &code.to_be_bytes()[..]));
            let at = scene.seconds();
            say_as_client(&mut scene, CLOSE, &close::payload(code, "")).await;
            at
        }));
    }
    let mut seconds = Vec::new();
    for turn in turns {
        seconds.push(turn.await.unwrap());
    }
    seconds.sort_unstable();
    seconds
}

#[tokio::test(start_paused = true)]
async fn clients_of_an_upstream_that_fails_are_told_one_after_the_other_if_so_configured() {
    on_stage(async {
        let spread = Duration::from_secs(100);
        let settings = Settings {
            loss_spread: spread,
            // No ping comes in between.
            ping_interval: Duration::from_secs(3600),
            ..Settings::default()
        };
        let mut sessions = Vec::new();
        for _ in 0..200 {
            let mut scene = Scene::under(settings.clone());
            scene.upstream.shutdown().await.unwrap();
            sessions.push(scene);
        }
        let turns = turns(sessions, 1011).await;
        assert!(turns[20] < 30 && turns[180] > 70, "{turns:?}");
        assert!(turns[199] <= 100, "{turns:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closes_while_it_waits_for_its_turn_gets_its_own_code_at_once() {
    on_stage(async {
        let mut scene = Scene::under(Settings {
            loss_spread: Duration::from_secs(3600),
            ..Settings::default()
        });
        scene.upstream.shutdown().await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        say_as_client(&mut scene, CLOSE, &close::payload(4000, "enough")).await;
        let (first, payload) = read(&mut scene.client).await;
        assert_eq!(first, 0x80 | CLOSE);
        // 1011 if its turn has come within that millisecond, which one in a million has.
        assert_eq!(payload, close::payload(4000, ""));
        assert_eq!(scene.seconds(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_takes_its_time() {
    on_stage(async {
        let settings = Settings { drain_spread: Duration::from_secs(10), ..Settings::default() };
        let mut sessions = Vec::new();
        for _ in 0..200 {
            let mut scene = Scene::under(settings.clone());
            scene.drain.take().unwrap().send(()).unwrap();
            sessions.push(scene);
        }
        let turns = turns(sessions, 1012).await;
        assert!(turns[30] < 4 && turns[170] > 6 && turns[199] <= 10, "{turns:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_websocket_that_carries_no_message_is_closed_as_idle_if_so_configured() {
    on_stage(async {
        let settings = Settings { idle_timeout: Duration::from_secs(50), ..Settings::default() };
        let mut scene = Scene::under(settings);
        advance(Duration::from_secs(15)).await;
        say_as_upstream(&mut scene, TEXT, b"the last word").await;
        read(&mut scene.client).await;
        // Pings are no messages.
        loop {
            let (first, payload) = read(&mut scene.client).await;
            if first == 0x80 | CLOSE {
                assert_eq!(payload, close::payload(1001, "idle"));
                break;
            }
            say_as_client(&mut scene, PONG, &payload).await;
            let (_, token) = read(&mut scene.upstream).await;
            say_as_upstream(&mut scene, PONG, &token).await;
        }
        assert_eq!(scene.seconds(), 65);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_breaks_the_protocol_behind_a_client_that_left_ends_the_relay() {
    on_stage(async {
        let Scene { client, mut upstream, relay, .. } = Scene::new();
        drop(client);
        assert_eq!(read(&mut upstream).await, said(1001, ""));
        // An opcode that there is not: its walker would say the same of it for ever.
        upstream.write_all(&[0x83, 0]).await.unwrap();
        let (report, events) = relay.await.unwrap();
        assert_eq!(report.summary.initiator, "client");
        assert_eq!(events, ["client: client_gone"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_breaks_the_protocol_behind_the_clients_close_ends_the_relay() {
    on_stage(async {
        let mut scene = Scene::new();
        scene.drain.take().unwrap().send(()).unwrap();
        assert_eq!(read(&mut scene.client).await, said(1012, "restarting"));
        assert_eq!(read(&mut scene.upstream).await, said(1001, ""));
        scene.upstream.write_all(&[0x83, 0]).await.unwrap();
        say_as_client(&mut scene, CLOSE, &close::payload(1012, "")).await;
        let (report, events) = scene.relay.await.unwrap();
        assert_eq!((report.summary.code, events), (1012, Vec::new()));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_breaks_the_protocol_is_told_to_the_client_when_it_is_its_turn() {
    on_stage(async {
        let settings =
            Settings { loss_spread: std::time::Duration::from_secs(8), ..Settings::default() };
        let mut scene = Scene::under(settings);
        scene.upstream.write_all(&[0x83, 0]).await.unwrap();
        assert_eq!(read(&mut scene.client).await, said(1011, "websocket_protocol_error"));
        say_as_client(&mut scene, CLOSE, &close::payload(1011, "")).await;
        let (report, events) = scene.end().await;
        assert_eq!((report.summary.code, events.len()), (1011, 1));
    })
    .await;
}
