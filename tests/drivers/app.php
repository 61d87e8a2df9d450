<?php
// One attempt of one PHP driver, as an app would make it: app.php DRIVER HOST PORT
// Prints what the error says, as JSON.

mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
ini_set('display_errors', 'stderr');
ini_set('default_socket_timeout', '2');
ini_set('mysqlnd.net_read_timeout', '2');
// As frameworks do: a warning is an exception.
set_error_handler(function ($level, $message) { throw new ErrorException($message, 0, $level); });

[, $driver, $host, $port] = $argv;
$port = (int) $port;
$drivers = [
    'pdo_pgsql' => fn () => new PDO("pgsql:host=$host;port=$port;dbname=shop;connect_timeout=2", 'app'),
    'pgsql' => fn () => pg_connect("host=$host port=$port user=app dbname=shop connect_timeout=2"),
    'pdo_mysql' => fn () => new PDO("mysql:host=$host;port=$port;dbname=shop", 'app', '', [PDO::ATTR_TIMEOUT => 2]),
    'mysqli' => fn () => new mysqli($host, 'app', '', 'shop', $port),
    'redis' => function () use ($host, $port) {
        $redis = new Redis();
        $redis->connect($host, $port, 1.0, null, 0, 1.0);
        $redis->get('cart');
    },
    'mongodb' => function () use ($host, $port) {
        $manager = new MongoDB\Driver\Manager("mongodb://$host:$port", ['serverSelectionTimeoutMS' => 1500, 'connectTimeoutMS' => 700]);
        $manager->executeCommand('shop', new MongoDB\Driver\Command(['ping' => 1]));
    },
    'amqp' => function () use ($host, $port) {
        $connection = new AMQPConnection(['host' => $host, 'port' => $port, 'connect_timeout' => 1, 'rpc_timeout' => 1]);
        $connection->connect();
    },
    'curl' => function () use ($host, $port) { file_get_contents("http://$host:$port/charge"); },
];
$extension = $driver === 'curl' ? 'standard' : $driver;
if (!extension_loaded($extension)) {
    exit("$extension is not installed\n");
}
$told = ['driver' => $driver === 'curl' ? 'streams' : $driver, 'version' => phpversion($extension)];
try {
    $drivers[$driver]();
} catch (Throwable $error) {
    $told['message'] = $error->getMessage();
    $told['repr'] = get_class($error) . ': ' . $error->getMessage();
    $told['trace'] = str_replace(__FILE__, '/app/app.php', (string) $error);
}
echo json_encode($told, JSON_INVALID_UTF8_SUBSTITUTE | JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE), "\n";
