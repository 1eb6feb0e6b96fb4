/* An endpoint that responds at once, so that a measurement shows the client. One thread, epoll, HTTP/1.1 keep-alive.
 *
 * null_endpoint PORT ANSWER_FILE [CERTIFICATE KEY]: every request with a Content-Length is read to its end and answered
 * with the bytes of ANSWER_FILE as application/x-amz-json-1.0; over TLS with a certificate and key (PEM, and compiled
 * with -DTLS). It binds 127.0.0.1 only and prints "ready PORT" when it listens (PORT 0: any).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#ifdef TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
static SSL_CTX *tls;
#endif

enum { HEAD = 16384, READ = 262144, FDS = 4096 };

/* Per connection: the head received so far, then the number of body bytes still expected. */
struct peer {
    size_t head_length;
    long body_left;
    void *ssl;
    char head[HEAD];
};

static struct peer *peers[FDS];
static char *answer;
static size_t answer_length;

static void build_answer(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) { perror(path); exit(1); }
    static char body[1 << 20];
    size_t length = fread(body, 1, sizeof body, file);
    fclose(file);
    answer = malloc(length + 256);
    int head = sprintf(answer,
                       "HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nx-amzn-RequestId: NULL\r\n"
                       "Content-Length: %zu\r\n\r\n",
                       length);
    memcpy(answer + head, body, length);
    answer_length = head + length;
}

/* Return the bytes read; 0: no more for now; -1: closed. */
static ssize_t take_in(int fd, struct peer *peer, char *data, size_t room) {
#ifdef TLS
    if (peer->ssl) {
        ERR_clear_error();
        int n = SSL_read(peer->ssl, data, room);
        if (n > 0) return n;
        int why = SSL_get_error(peer->ssl, n);
        return why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? 0 : -1;
    }
#endif
    ssize_t n = recv(fd, data, room, 0);
    return n > 0 ? n : n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
}

static ssize_t put_out(int fd, struct peer *peer, const char *data, size_t length) {
#ifdef TLS
    if (peer->ssl) {
        int n = SSL_write(peer->ssl, data, length);
        if (n > 0) return n;
        int why = SSL_get_error(peer->ssl, n);
        return why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? 0 : -1;
    }
#endif
    (void)peer;
    ssize_t n = send(fd, data, length, MSG_NOSIGNAL);
    return n >= 0 ? n : errno == EAGAIN || errno == EINTR ? 0 : -1;
}

static int send_answer(int fd, struct peer *peer) {
    for (size_t sent = 0; sent < answer_length;) {
        ssize_t n = put_out(fd, peer, answer + sent, answer_length - sent);
        if (n < 0) return -1;
        sent += n;
    }
    return 0;
}

static long content_length(const char *head) {
    const char *at = strcasestr(head, "\r\ncontent-length:");
    return at ? atol(at + 17) : 0;
}

/* Handle the bytes read, and respond to each complete request. Return -1 to close the connection. */
static int take(int fd, struct peer *peer, const char *data, size_t length) {
    while (length) {
        if (peer->body_left) {
            size_t part = length < (size_t)peer->body_left ? length : (size_t)peer->body_left;
            data += part, length -= part, peer->body_left -= part;
        } else {
            size_t before = peer->head_length, part = length < HEAD - 1 - before ? length : HEAD - 1 - before;
            memcpy(peer->head + before, data, part);
            peer->head[before + part] = 0;
            char *end = memmem(peer->head, before + part, "\r\n\r\n", 4);
            if (!end) {
                peer->head_length += part;
                return peer->head_length >= HEAD - 1 ? -1 : 0;
            }
            size_t used = end + 4 - peer->head - before;
            end[2] = 0;
            data += used, length -= used, peer->head_length = 0;
            peer->body_left = content_length(peer->head);
        }
        if (!peer->body_left && send_answer(fd, peer)) return -1;
    }
    return 0;
}

static void forget(int fd) {
#ifdef TLS
    if (peers[fd]->ssl) SSL_free(peers[fd]->ssl);
#endif
    close(fd);
    free(peers[fd]);
    peers[fd] = NULL;
}

static void accept_peer(int listener, int poll) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    if (fd < 0) return;
    if (fd >= FDS) { close(fd); return; }
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    peers[fd] = calloc(1, sizeof(struct peer));
#ifdef TLS
    if (tls) {
        SSL *ssl = peers[fd]->ssl = SSL_new(tls);
        SSL_set_fd(ssl, fd);
        SSL_set_accept_state(ssl);
    }
#endif
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
}

static int listen_on(int port) {
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 512)) { perror("bind"); exit(1); }
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("ready %d\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

int main(int argc, char **argv) {
    if (argc != 3 && argc != 5) {
        fprintf(stderr, "usage: %s PORT ANSWER_FILE [CERTIFICATE KEY]\n", argv[0]);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
#ifdef TLS
    if (argc == 5) {
        tls = SSL_CTX_new(TLS_server_method());
        if (SSL_CTX_use_certificate_chain_file(tls, argv[3]) != 1 || SSL_CTX_use_PrivateKey_file(tls, argv[4], SSL_FILETYPE_PEM) != 1) {
            ERR_print_errors_fp(stderr);
            return 1;
        }
    }
#else
    if (argc == 5) { fprintf(stderr, "compiled without TLS\n"); return 2; }
#endif
    static char data[READ];
    struct epoll_event events[256];
    build_answer(argv[2]);
    int listener = listen_on(atoi(argv[1])), poll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(poll, events, 256, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) { accept_peer(listener, poll); continue; }
            for (ssize_t n;;) {
                n = take_in(fd, peers[fd], data, sizeof data);
                if (n == 0) break;
                if (n < 0 || take(fd, peers[fd], data, n)) { forget(fd); break; }
                if (!peers[fd]->ssl && n < (ssize_t)sizeof data) break;
            }
        }
    }
}
