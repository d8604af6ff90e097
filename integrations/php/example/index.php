<?php
// A small shop: run it several times behind Linchpin with [pools.copies], log in, kill a server, and go on.
//
//     SESSION_SECRET=$(openssl rand -hex 32) php -d session.save_path=/tmp/a -S 127.0.0.1:3001 index.php
declare(strict_types=1);

require __DIR__ . '/../linchpin.php';
$copies = Linchpin\Session\SessionCopies::register(getenv('SESSION_SECRET'));

header('Content-Type: text/plain');
$path = explode('?', $_SERVER['REQUEST_URI'])[0];
$told = static fn (): string => (string) ($_SESSION['count'] ?? 0);

if ($path === '/stats') {
    exit(json_encode($copies->stats()));
}
if ($path === '/static') {
    exit('no session');
}
session_start();
switch ("{$_SERVER['REQUEST_METHOD']} $path") {
    case 'GET /count':
        echo $told();
        break;
    case 'POST /slow':
        sleep(1);
        // and then as below
    case 'POST /count':
        $_SESSION['count'] = ($_SESSION['count'] ?? 0) + 1;
        echo $told();
        break;
    case 'POST /renew':
        session_regenerate_id(true);
        echo $told();
        break;
    case 'POST /login':
        session_regenerate_id(true);
        $_SESSION['user'] = $_POST['user'];
        header('Location: /', response_code: 303);
        break;
    case 'POST /cart':
        $_SESSION['cart'][] = $_POST['item'];
        header('Location: /', response_code: 303);
        break;
    case 'POST /logout':
        session_destroy();
        echo 'bye';
        break;
    case 'GET /':
        echo json_encode(['user' => $_SESSION['user'] ?? null, 'cart' => $_SESSION['cart'] ?? []]);
        break;
    default:
        http_response_code(404);
}
