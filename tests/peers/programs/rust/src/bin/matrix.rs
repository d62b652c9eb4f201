// A target program: axum on tokio, calling with reqwest.
// Usage: CALLED=URL matrix HOST:PORT; GET /m/<shape>/<client>/<n> calls CALLED/n/<n>.
use axum::{extract::Path, http::StatusCode, routing::get, Router};
use std::time::Duration;

async fn call(client: &reqwest::Client, url: &str) -> Result<String, reqwest::Error> {
    client.get(url).send().await?.text().await
}

async fn shape(name: &str, client: &reqwest::Client, url: &str) -> Result<(), reqwest::Error> {
    call(client, url).await?;
    match name {
        "one" => {}
        "mixed" => {
            let (one, two) = tokio::join!(call(client, url), call(client, url));
            one?;
            two?;
        }
        "spawned" => {
            let (client, url) = (client.clone(), url.to_owned());
            let task = tokio::spawn(async move { call(&client, &url).await });
            task.await.expect("the task ends well")?;
        }
        _ => {
            tokio::time::sleep(Duration::from_millis(2)).await;
            call(client, url).await?;
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() {
    let address = std::env::args().nth(1).expect("HOST:PORT");
    let called = std::env::var("CALLED").expect("CALLED");
    let client = reqwest::Client::new();
    let app = Router::new()
        .route("/ready", get(|| async { "ready\n" }))
        .route(
            "/m/{shape}/{client}/{n}",
            get(move |Path((name, _, n)): Path<(String, String, String)>| {
                let (client, url) = (client.clone(), format!("{called}/n/{n}"));
                async move {
                    match shape(&name, &client, &url).await {
                        Ok(()) => (StatusCode::OK, format!("n={n}\n")),
                        Err(error) => (StatusCode::BAD_GATEWAY, format!("n={n} {error}\n")),
                    }
                }
            }),
        );
    let listener = tokio::net::TcpListener::bind(&address).await.expect("the address is free");
    axum::serve(listener, app).await.expect("it serves");
}
