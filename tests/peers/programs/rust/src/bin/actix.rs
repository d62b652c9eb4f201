// A target program: actix-web, two loops of their own, calling with reqwest.
// Usage: CALLED=URL actix HOST:PORT; GET /m/<shape>/<client>/<n> calls CALLED/n/<n>.
use actix_web::{web, App, HttpResponse, HttpServer};
use std::time::Duration;

async fn call(client: &reqwest::Client, url: &str) -> Result<String, reqwest::Error> {
    client.get(url).send().await?.text().await
}

async fn answer(path: web::Path<(String, String, String)>, client: web::Data<reqwest::Client>) -> HttpResponse {
    let (shape, _, n) = path.into_inner();
    let url = format!("{}/n/{n}", std::env::var("CALLED").expect("CALLED"));
    let mut result = call(&client, &url).await;
    if result.is_ok() && shape != "one" {
        tokio::time::sleep(Duration::from_millis(2)).await;
        result = call(&client, &url).await;
    }
    match result {
        Ok(_) => HttpResponse::Ok().body(format!("n={n}\n")),
        Err(error) => HttpResponse::BadGateway().body(format!("n={n} {error}\n")),
    }
}

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).expect("HOST:PORT");
    let client = web::Data::new(reqwest::Client::new());
    HttpServer::new(move || {
        App::new()
            .app_data(client.clone())
            .route("/ready", web::get().to(|| async { "ready\n" }))
            .route("/m/{shape}/{client}/{n}", web::get().to(answer))
    })
    .workers(2)
    .bind(address)?
    .run()
    .await
}
