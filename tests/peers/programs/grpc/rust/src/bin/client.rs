//! Target program: makes each numbered call once with tonic and exits 0 only if every answer was
//! the one that belongs to its number. client HOST:PORT COUNT CONCURRENCY [switches]

use std::error::Error;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use peers::{failing_code, message, Bytes, PARTS};
use tokio_stream::StreamExt;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

const GIVE_UP: Duration = Duration::from_millis(100);

type Failure = Box<dyn Error + Send + Sync>;

struct Job {
    target: String,
    count: usize,
    concurrency: usize,
    first: usize,
    gate: Option<usize>,
    calls: Vec<String>,
    traceparent: bool,
}

fn parse() -> Result<Job, Failure> {
    let mut left = std::env::args().skip(1);
    let mut next = || left.next().ok_or("HOST:PORT COUNT CONCURRENCY [switches]");
    let mut job = Job {
        target: next()?,
        count: next()?.parse()?,
        concurrency: next()?.parse()?,
        first: 100,
        gate: None,
        calls: vec!["one".to_owned()],
        traceparent: false,
    };
    while let Ok(switch) = next() {
        match switch.as_str() {
            "--first" => job.first = next()?.parse()?,
            "--gate" => job.gate = Some(next()?.parse()?),
            "--calls" => job.calls = next()?.split(',').map(str::to_owned).collect(),
            "--traceparent" => job.traceparent = true,
            _ => return Err(switch.into()),
        }
    }
    Ok(job)
}

fn path(method: &'static str) -> PathAndQuery {
    PathAndQuery::from_static(method)
}

async fn unary(
    client: &mut Grpc<Channel>,
    method: &'static str,
    request: Request<Vec<u8>>,
) -> Result<Vec<u8>, Status> {
    client.unary(request, path(method), Bytes).await.map(Response::into_inner)
}

async fn collected(answer: Response<Streaming<Vec<u8>>>) -> Result<Vec<Vec<u8>>, Status> {
    let mut messages = answer.into_inner();
    let mut all = Vec::new();
    while let Some(one) = messages.next().await {
        all.push(one?);
    }
    Ok(all)
}

fn check(n: usize, answers: &[Vec<u8>], wanted: usize) -> Result<(), Failure> {
    if answers.len() == wanted && answers.iter().all(|one| *one == message(n)) {
        return Ok(());
    }
    Err(format!("call {n}: not its answers").into())
}

fn expect(n: usize, code: i32, answer: Result<Vec<u8>, Status>) -> Result<(), Failure> {
    let found = answer.map_or_else(|status| status.code(), |_| Code::Ok);
    // A server that knows the deadline may cancel the call a moment before the client does.
    let is_early = code == 4 && found == Code::Cancelled;
    if found == Code::from(code) || is_early {
        return Ok(());
    }
    Err(format!("call {n}: {found:?} instead of {code}").into())
}

async fn call(channel: Channel, job: &Job, n: usize) -> Result<(), Failure> {
    let mut client = Grpc::new(channel);
    client.ready().await?;
    let mut request = Request::new(message(n));
    if job.traceparent {
        let value = format!("00-7ace{n:028x}-5fa0{n:012x}-01");
        request.metadata_mut().insert("traceparent", value.parse()?);
    }
    let parts = || tokio_stream::iter(vec![message(n); PARTS]);
    match job.calls[n % job.calls.len()].as_str() {
        "one" => check(n, &[unary(&mut client, "/peers.Numbers/One", request).await?], 1),
        "relay" => check(n, &[unary(&mut client, "/peers.Numbers/Relay", request).await?], 1),
        "fail" => {
            expect(n, failing_code(n), unary(&mut client, "/peers.Numbers/Fail", request).await)
        }
        "cancel" => {
            let waiting = unary(&mut client, "/peers.Numbers/Wait", request);
            match tokio::time::timeout(GIVE_UP, waiting).await {
                Ok(_) => Err(format!("call {n} was answered").into()),
                Err(_) => Ok(()), // dropped, which cancels it
            }
        }
        "deadline" => {
            request.set_timeout(GIVE_UP);
            expect(n, 4, unary(&mut client, "/peers.Numbers/Wait", request).await)
        }
        "down" => {
            let answer = client.server_streaming(request, path("/peers.Numbers/Down"), Bytes);
            check(n, &collected(answer.await?).await?, PARTS)
        }
        "up" => {
            let request = Request::from_parts(request.metadata().clone(), Default::default(), parts());
            let answer = client.client_streaming(request, path("/peers.Numbers/Up"), Bytes);
            check(n, &[answer.await?.into_inner()], 1)
        }
        "both" => {
            let request = Request::from_parts(request.metadata().clone(), Default::default(), parts());
            let answer = client.streaming(request, path("/peers.Numbers/Both"), Bytes);
            check(n, &collected(answer.await?).await?, PARTS)
        }
        other => Err(format!("no such call: {other}").into()),
    }
}

async fn call_all(channel: &Channel, job: &Arc<Job>, first: usize, end: usize) -> Result<(), Failure> {
    let next = Arc::new(AtomicUsize::new(first));
    let workers: Vec<_> = (0..job.concurrency)
        .map(|_| {
            let (channel, job, next) = (channel.clone(), job.clone(), next.clone());
            tokio::spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= end {
                        return Ok::<(), Failure>(());
                    }
                    call(channel.clone(), &job, n).await?;
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await??;
    }
    Ok(())
}

fn pass_gate() -> Result<(), Failure> {
    println!("gate");
    std::io::stdout().flush()?;
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line)? == 0 {
        return Err("the gate was never opened: stdin ended".into());
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let job = Arc::new(parse()?);
    let channel = Channel::from_shared(format!("http://{}", job.target))?.connect_lazy();
    let gate = job.first + job.gate.unwrap_or(0);
    call_all(&channel, &job, job.first, gate).await?;
    if job.gate.is_some() {
        pass_gate()?;
    }
    call_all(&channel, &job, gate, job.first + job.count).await
}
