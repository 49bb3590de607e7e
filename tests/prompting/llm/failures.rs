//! Failures that pass, failures that do not, and waits that end.

use std::time::{Duration, Instant};

use selma::prompting::llm::{Client, Limits};
use serde_json::json;

use super::{ask, refusal, settings};
use crate::server::{Answer, Server, chat, failure};

#[test]
fn what_may_pass_is_tried_again() {
    let broken = "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{\"choices\": [{\"mess";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{\"choices\": [{";
    for name in ["500", "503", "closed", "closed in a chunk", "no answer", "malformed", "other JSON", "stall"] {
        let server = Server::start(move |number, _| match (number, name) {
            (2, _) => chat("fine", "stop"),
            (_, "500") => failure(500, "oops", "server_error"),
            (_, "503") => Answer::With(503, "Retry-After: 0".into(), json!({})),
            (_, "closed") => Answer::Raw(broken.into()),
            (_, "closed in a chunk") => Answer::Raw(chunked.into()),
            (_, "no answer") => Answer::Raw(Vec::new()),
            (_, "malformed") => Answer::Raw("HTTP/1.1 200 OK\r\n\r\n{\"choices\": [".into()),
            (_, "other JSON") => Answer::Json(200, json!({"choices": []})),
            _ => Answer::Stall,
        });
        assert_eq!(ask(&server.url).map(|reply| reply.text), Ok("fine".to_owned()), "{name}");
        assert_eq!(server.seen().len(), 3, "{name}");
    }
}

#[test]
fn a_pause_that_the_server_asks_for_is_kept() {
    let server = Server::start(|number, _| match number {
        0 => Answer::With(429, "Retry-After: 1".into(), json!({"error": {"message": "slow down"}})),
        _ => chat("fine", "stop"),
    });
    let start = Instant::now();
    assert_eq!(ask(&server.url).unwrap().text, "fine");
    assert!(start.elapsed() >= Duration::from_secs(1));

    let server = Server::start(|_, _| Answer::With(429, "Retry-After: 4000".into(), json!({"error": "come back"})));
    let message = refusal(&server);
    assert!(message.contains("come back") && message.contains("pause of 4000 s"), "{message}");
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn a_long_pause_is_named_however_the_server_says_it() {
    let date = Server::start(|_, _| {
        Answer::With(429, "Retry-After: Fri, 31 Dec 2100 23:59:59 GMT".into(), json!({"error": "come back"}))
    });
    let message = refusal(&date);
    assert!(message.contains("it asks for a pause of") && message.contains("waits at most 3 s"), "{message}");
    assert_eq!(date.seen().len(), 1);
    // With no tries left, too.
    let short = Server::start(|_, _| Answer::With(429, "Retry-After: 0".into(), json!({"error": "slow down"})));
    let message = refusal(&short);
    assert!(message.contains("pause of 0 s; gave up after 3 tries"), "{message}");
}

#[test]
fn replies_in_latin_1_or_with_a_byte_order_mark_are_read() {
    let body = |text: &[u8]| {
        let json =
            [&b"{\"choices\": [{\"message\": {\"content\": \""[..], text, b"\"}, \"finish_reason\": \"stop\"}]}"]
                .concat();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=iso-8859-1\r\nContent-Length: {}\r\n\r\n",
            json.len()
        );
        [head.as_bytes(), &json].concat()
    };
    let latin = body(b"un caf\xe9");
    assert_eq!(ask(&Server::start(move |_, _| Answer::Raw(latin.clone())).url).unwrap().text, "un café");
    let json = "\u{feff}{\"choices\": [{\"message\": {\"content\": \"fine\"}}]}";
    let marked = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{json}", json.len());
    assert_eq!(ask(&Server::start(move |_, _| Answer::Raw(marked.clone().into())).url).unwrap().text, "fine");
}

#[test]
fn no_wait_is_unbounded() {
    let stalling = Server::start(|_, _| Answer::Stall);
    let message = refusal(&stalling);
    assert!(message.contains("no complete reply within 0.4 s; gave up after 3 tries"), "{message}");
    let message = refusal(&Server::start(|_, _| Answer::Trickle));
    assert!(message.contains("no complete reply within 0.4 s"), "{message}");
    let server = Server::start(|_, _| failure(502, "bad\u{1b}[31m gateway\n\n", ""));
    let message = refusal(&server);
    assert!(message.contains("status 502: bad [31m gateway; gave up after 3 tries"), "{message}");
    assert_eq!(server.seen().len(), 3);
    // Nobody listens at the port of a listener that is gone.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let message = ask(&format!("http://{gone}")).unwrap_err();
    assert!(message.contains("the connection failed"), "{message}");
}

#[test]
fn what_will_not_pass_is_told_at_once() {
    for (status, text, code, words) in [
        (429, "no money", "insufficient_quota", "no money"),
        (
            401,
            "wrong key sk-do-not-show-this",
            "",
            "does not accept the key in OPENAI_API_KEY (status 401: wrong key [key])",
        ),
        (404, "no such model", "", "no such model; check the address and --llm-model"),
        (400, "bad request", "", "status 400: bad request"),
        (418, "teapot", "", "status 418: teapot"),
    ] {
        let server = Server::start(move |_, _| failure(status, text, code));
        let message = refusal(&server);
        assert!(message.contains(words), "{message}");
        assert_eq!(server.seen().len(), 1, "{message}");
    }
    let keyless = Server::start(|_, _| failure(401, "who are you?", ""));
    let client = Client::new(settings(&keyless.url), None, Limits::default()).unwrap();
    assert!(client.complete("x").unwrap_err().to_string().contains("set OPENAI_API_KEY"));
}

#[test]
fn a_redirect_does_not_take_the_key_along() {
    let other = Server::start(|_, _| chat("caught", "stop"));
    let address = other.url.clone();
    let server = Server::start(move |_, _| Answer::With(307, format!("Location: {address}/v1/x"), json!({})));
    assert!(refusal(&server).contains("it redirects"));
    assert!(other.seen().is_empty());
}
