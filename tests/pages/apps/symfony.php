<?php
// Symfony's error handler: php -S HOST:PORT symfony.php. With APP_DEBUG=0 it hides what happened.

require_once '/usr/share/php/Symfony/Component/ErrorHandler/autoload.php';

use Symfony\Component\ErrorHandler\Debug;
use Symfony\Component\ErrorHandler\ErrorHandler;
use Symfony\Component\ErrorHandler\ErrorRenderer\SerializerErrorRenderer;

function price(array $cart, string $article): int
{
    if (!isset($cart[$article])) {
        throw new RuntimeException("no price for $article");
    }
    return $cart[$article];
}

if (getenv('APP_DEBUG')) {
    Debug::enable();
} else {
    ErrorHandler::register(new ErrorHandler(null, false));
}
echo price(['book' => 12], 'pen');
