<?php
// PHP's own server: php -S HOST:PORT plain.php. What is shown is up to display_errors and html_errors.

// PHP itself says 200 as soon as it has shown an error; an app that knows better says 500.
http_response_code(500);

function price(array $cart, string $article): int
{
    return $cart[$article]->price();
}

switch (parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH)) {
    case '/warning':
        echo "<h1>Orders</h1>\n", [1][7], 10 / strlen('x'), "\n";
        break;
    case '/json':
        try {
            price([], 'pen');
        } catch (Throwable $error) {
            header('Content-Type: application/json');
            echo json_encode([
                'message' => $error->getMessage(),
                'file' => $error->getFile(),
                'line' => $error->getLine(),
                'trace' => explode("\n", $error->getTraceAsString()),
            ]);
        }
        break;
    default:
        echo price(['book' => 12], 'pen');
}
