<?php
// A Laravel app in one file, on Debian's framework: php -S HOST:PORT laravel.php. APP_DEBUG=0 hides what happened.

require_once '/usr/share/php/Illuminate/autoload.php';

use Illuminate\Config\Repository;
use Illuminate\Foundation\Application;
use Illuminate\Http\Request;
use Illuminate\Support\Facades\Facade;

$work = getcwd();
foreach (['app', 'bootstrap/cache', 'storage/framework/views', 'resources/views'] as $folder) {
    @mkdir("$work/$folder", 0777, true);
}
$app = new Application($work);
$app->instance('config', new Repository([
    'app' => ['debug' => (bool) getenv('APP_DEBUG'), 'env' => 'local', 'locale' => 'en', 'fallback_locale' => 'en'],
    'view' => ['paths' => ["$work/resources/views"], 'compiled' => "$work/storage/framework/views"],
    'logging' => ['default' => 'null', 'channels' => ['null' => ['driver' => 'monolog', 'handler' => Monolog\Handler\NullHandler::class]]],
]));
$app->singleton(Illuminate\Contracts\Http\Kernel::class, Illuminate\Foundation\Http\Kernel::class);
$app->singleton(Illuminate\Contracts\Debug\ExceptionHandler::class, Illuminate\Foundation\Exceptions\Handler::class);
Facade::setFacadeApplication($app);
$app->register(Illuminate\Filesystem\FilesystemServiceProvider::class);
$app->register(Illuminate\Translation\TranslationServiceProvider::class);
$app->register(Illuminate\View\ViewServiceProvider::class);
$app->register(Illuminate\Routing\RoutingServiceProvider::class);

class OrderController extends Illuminate\Routing\Controller
{
    public function boom()
    {
        return collect(['book' => 12])->map(fn ($price) => intdiv($price, 0));
    }
}

$request = Request::capture();
$app->instance('request', $request);
$app['router']->get('/boom', [OrderController::class, 'boom']);
try {
    $answer = $app['router']->dispatch($request);
} catch (Throwable $error) {
    $answer = $app[Illuminate\Contracts\Debug\ExceptionHandler::class]->render($request, $error);
}
$answer->send();
