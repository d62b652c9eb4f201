//! Target program: tonic's server of the numbered service. server HOST:PORT [NEXT]

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use peers::{failing_code, number, Bytes, PARTS, SERVICE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::{Stream, StreamExt};
use tonic::body::BoxBody;
use tonic::client;
use tonic::server::{
    ClientStreamingService, Grpc, NamedService, ServerStreamingService, StreamingService,
    UnaryService,
};
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status, Streaming};

type Reply<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;
type Messages = Pin<Box<dyn Stream<Item = Result<Vec<u8>, Status>> + Send>>;

struct One;

impl UnaryService<Vec<u8>> for One {
    type Response = Vec<u8>;
    type Future = Reply<Vec<u8>>;

    fn call(&mut self, request: Request<Vec<u8>>) -> Self::Future {
        Box::pin(async move { Ok(Response::new(request.into_inner())) })
    }
}

/// A call of HTTP/1 on a connection of its own, where PEERS_NEXT_HTTP is a HOST:PORT.
async fn ask_http(n: usize) -> std::io::Result<()> {
    let Ok(address) = std::env::var("PEERS_NEXT_HTTP") else {
        return Ok(());
    };
    let mut stream = tokio::net::TcpStream::connect(&address).await?;
    let request = format!("GET /n/{n} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.read_to_end(&mut Vec::new()).await?;
    Ok(())
}

/// The same call of One elsewhere, while this one is served.
struct Relay(Option<Channel>);

impl UnaryService<Vec<u8>> for Relay {
    type Response = Vec<u8>;
    type Future = Reply<Vec<u8>>;

    fn call(&mut self, request: Request<Vec<u8>>) -> Self::Future {
        let next = self.0.clone();
        Box::pin(async move {
            ask_http(number(request.get_ref()).unwrap_or(0))
                .await
                .map_err(|error| Status::unavailable(error.to_string()))?;
            let channel = next.ok_or_else(|| Status::failed_precondition("started without NEXT"))?;
            let mut client = client::Grpc::new(channel);
            client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let path = http::uri::PathAndQuery::from_static("/peers.Numbers/One");
            client.unary(Request::new(request.into_inner()), path, Bytes).await
        })
    }
}

struct Fail;

impl UnaryService<Vec<u8>> for Fail {
    type Response = Vec<u8>;
    type Future = Reply<Vec<u8>>;

    fn call(&mut self, request: Request<Vec<u8>>) -> Self::Future {
        Box::pin(async move {
            let n = number(request.get_ref()).ok_or_else(|| Status::invalid_argument("no number"))?;
            Err(Status::new(Code::from(failing_code(n)), format!("as asked: {n}%")))
        })
    }
}

/// Never answers: the client gives up.
struct Wait;

impl UnaryService<Vec<u8>> for Wait {
    type Response = Vec<u8>;
    type Future = Reply<Vec<u8>>;

    fn call(&mut self, _: Request<Vec<u8>>) -> Self::Future {
        Box::pin(std::future::pending())
    }
}

struct Down;

impl ServerStreamingService<Vec<u8>> for Down {
    type Response = Vec<u8>;
    type ResponseStream = Messages;
    type Future = Reply<Messages>;

    fn call(&mut self, request: Request<Vec<u8>>) -> Self::Future {
        let message = request.into_inner();
        Box::pin(async move {
            let parts = vec![Ok(message); PARTS];
            Ok(Response::new(Box::pin(tokio_stream::iter(parts)) as Messages))
        })
    }
}

struct Up;

impl ClientStreamingService<Vec<u8>> for Up {
    type Response = Vec<u8>;
    type Future = Reply<Vec<u8>>;

    fn call(&mut self, request: Request<Streaming<Vec<u8>>>) -> Self::Future {
        let mut messages = request.into_inner();
        Box::pin(async move {
            let mut last = Vec::new();
            while let Some(message) = messages.next().await {
                last = message?;
            }
            Ok(Response::new(last))
        })
    }
}

struct Both;

impl StreamingService<Vec<u8>> for Both {
    type Response = Vec<u8>;
    type ResponseStream = Messages;
    type Future = Reply<Messages>;

    fn call(&mut self, request: Request<Streaming<Vec<u8>>>) -> Self::Future {
        Box::pin(async move { Ok(Response::new(Box::pin(request.into_inner()) as Messages)) })
    }
}

#[derive(Clone)]
struct Numbers {
    next: Option<Channel>,
}

impl NamedService for Numbers {
    const NAME: &'static str = SERVICE;
}

impl tower_service::Service<http::Request<BoxBody>> for Numbers {
    type Response = http::Response<BoxBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<BoxBody>) -> Self::Future {
        let next = self.next.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(Bytes);
            let method = request.uri().path().rsplit('/').next().unwrap_or("").to_owned();
            Ok(match method.as_str() {
                "One" => grpc.unary(One, request).await,
                "Relay" => grpc.unary(Relay(next), request).await,
                "Fail" => grpc.unary(Fail, request).await,
                "Wait" => grpc.unary(Wait, request).await,
                "Down" => grpc.server_streaming(Down, request).await,
                "Up" => grpc.client_streaming(Up, request).await,
                "Both" => grpc.streaming(Both, request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let next = match arguments.get(2) {
        Some(next) => Some(Channel::from_shared(format!("http://{next}"))?.connect_lazy()),
        None => None,
    };
    let address = arguments[1].parse()?;
    Server::builder().add_service(Numbers { next }).serve(address).await?;
    Ok(())
}
