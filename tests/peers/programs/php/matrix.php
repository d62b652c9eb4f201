<?php
// A target program: PHP that calls by curl, or by streams. For `php -S HOST:PORT matrix.php`;
// GET /m/<shape>/<client>/<n> calls CALLED/n/<n>.
$path = explode('/', parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH));
header('Content-Type: text/plain');
if ($path[1] === 'ready') {
    echo "ready\n";
    return true;
}
[, , $shape, $client, $n] = $path;
$url = getenv('CALLED') . "/n/$n";

function curl_for(string $url): CurlHandle
{
    $curl = curl_init($url);
    curl_setopt($curl, CURLOPT_RETURNTRANSFER, true);
    return $curl;
}

function call(string $client, string $url): void
{
    $text = $client === 'curl' ? curl_exec(curl_for($url)) : file_get_contents($url);
    if (!is_string($text)) {
        http_response_code(502);
    }
}

function call_both(string $url): void
{
    $many = curl_multi_init();
    foreach ([curl_for($url), curl_for($url)] as $curl) {
        curl_multi_add_handle($many, $curl);
    }
    do {
        curl_multi_exec($many, $running);
        curl_multi_select($many);
    } while ($running);
}

if ($shape === 'fire') { // the second call when the answer has gone: by FastCGI only
    call($client, $url);
    echo "n=$n\n";
    fastcgi_finish_request();
    usleep(3000);
    call($client, $url);
    return true;
}
call($client, $url);
if ($shape === 'two') {
    call($client, $url);
} elseif ($shape === 'mixed') {
    call_both($url);
}
echo "n=$n\n";
return true;
