// A target program whose TLS is rustls: reqwest on tokio.
// Usage: encrypted URL COUNT http1|http2; waits for a line, then calls one after the other, "{}" in
// the URL being the number, says "done" and waits for another line.
use std::io::stdin;

fn wait_for_line() {
    stdin().read_line(&mut String::new()).expect("stdin");
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), reqwest::Error> {
    let arguments: Vec<String> = std::env::args().collect();
    let count: u32 = arguments[2].parse().expect("COUNT");
    let builder = reqwest::Client::builder()
        .use_rustls_tls()
        .danger_accept_invalid_certs(true);
    let client = if arguments[3] == "http1" { builder.http1_only() } else { builder }.build()?;
    wait_for_line();
    for n in 1..=count {
        let url = arguments[1].replace("{}", &n.to_string());
        client.get(url).send().await?.error_for_status()?.text().await?;
    }
    println!("done");
    wait_for_line();
    Ok(())
}
