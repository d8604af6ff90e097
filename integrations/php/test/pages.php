<?php
// Pages that use the session in all the ways that PHP has; run.php asks for them.
declare(strict_types=1);

require __DIR__ . '/../linchpin.php';
$copies = Linchpin\Session\SessionCopies::register(getenv('SESSION_SECRET'), max: 2000);

$pages = [
    '/get' => static function (): void {
        session_start();
        echo json_encode($_SESSION);
    },
    '/set' => static function (): void {
        session_start();
        $_SESSION['value'] = $_GET['value'];
        echo 'ok';
    },
    '/before-output' => static function (): void {
        session_start();
        $_SESSION['value'] = 'before';
        echo 'a';
        flush();
    },
    '/after-output' => static function (): void {
        session_start();
        $_SESSION['value'] = 'early';
        echo 'a';
        ob_get_level() && ob_flush();
        flush();
        $_SESSION['value'] = 'late';
    },
    '/closed-early' => static function (): void {
        session_start();
        $_SESSION['value'] = 'closed';
        session_write_close();
        echo 'ok';
    },
    '/twice' => static function (): void {
        session_start();
        $_SESSION['value'] = 'first';
        session_write_close();
        session_start();
        $_SESSION['value'] = 'second';
        session_write_close();
    },
    '/read-and-close' => static function (): void {
        session_start(['read_and_close' => true]);
        echo json_encode($_SESSION);
    },
    '/no-session' => static fn () => print 'ok',
    '/exit' => static function (): void {
        session_start();
        $_SESSION['value'] = 'exit';
        exit('bye');
    },
    '/fatal' => static function (): void {
        session_start();
        $_SESSION['value'] = 'fatal';
        throw new Error('as asked');
    },
    '/abort' => static function (): void {
        session_start();
        $_SESSION['value'] = 'aborted';
        session_abort();
        echo 'ok';
    },
    '/unset' => static function (): void {
        session_start();
        session_unset();
        echo 'ok';
    },
    '/login' => static function (): void {
        session_start();
        session_regenerate_id(true);
        $_SESSION = ['user' => 'anna'];
        header('Location: /get');
    },
    '/logout' => static function (): void {
        session_start();
        session_destroy();
        echo 'bye';
    },
    '/logout-and-login' => static function (): void {
        session_start();
        session_destroy();
        session_start();
        session_regenerate_id(true);
        $_SESSION = ['user' => 'bert'];
        echo 'ok';
    },
    '/stats' => static fn () => print json_encode($copies->stats()),
];
($pages[explode('?', $_SERVER['REQUEST_URI'])[0]] ?? static fn () => http_response_code(404))();
