//! Reasons for the end of a session, in the audit log and in the metrics: it reads as the client's wish only
//! where the client left.

use std::{net::Shutdown, time::Duration};

use serde_json::json;
use tests::{
    bastion::{LOGIN, Setup},
    forge::Forge,
    key::Key,
    rogue::{Client, number},
    wait,
    wire::Writer,
};

/// How long a session may take to end.
const SOON: Duration = Duration::from_secs(20);

type Deed = fn(Client) -> Option<Client>;

#[test]
fn each_end_of_a_session_has_its_own_name() {
    let (authority, key) = (Key::ed25519(), Key::ed25519());
    let keepalive = json!({"interval": "1s", "max_missed": 2});
    let bastion = Setup::new().trust(&authority).set("/keepalive", keepalive).start();
    let deeds: [(&str, &str, Deed); 5] = [
        ("it says that it leaves", "client_left", |mut client| {
            let goodbye = Writer::message(number::DISCONNECT).u32(11).string("").string("");
            client.packets.send(&goodbye.0).unwrap();
            Some(client)
        }),
        ("it closes the connection", "client_left", |mut client| {
            client.packets.link().stream().shutdown(Shutdown::Write).unwrap();
            Some(client)
        }),
        ("its host resets the connection", "connection_lost", |mut client| {
            let stream = client.packets.link().stream();
            socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
            None
        }),
        ("it sends what is no packet", "protocol_error", |mut client| {
            client.packets.link().send(&[0xff; 64]).unwrap();
            Some(client)
        }),
        ("it answers nothing", "client_silent", Some),
    ];
    let ended = || -> Vec<String> {
        let records = bastion.audit().into_iter().filter(|record| record["event"] == "session_closed");
        records.map(|record| record["reason"].as_str().unwrap().to_owned()).collect()
    };
    for (number, (how, reason, deed)) in deeds.into_iter().enumerate() {
        let certificate = Forge::user(&key, LOGIN).sign(&authority);
        let held = deed(Client::login(bastion.address(), LOGIN, &key, certificate));
        let last = wait::until(how, SOON, || ended().get(number).cloned());
        assert_eq!(last, reason, "{how}");
        drop(held);
    }
    let metrics = bastion.page("/metrics").body;
    for (reason, count) in
        [("client_left", 2), ("connection_lost", 1), ("protocol_error", 1), ("client_silent", 1)]
    {
        let line = format!("bastion_sessions_ended_total{{reason=\"{reason}\"}} {count}\n");
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
}
