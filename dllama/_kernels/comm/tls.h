/* TLS on a link: the functions of a link whose bytes are encrypted, on top of those of its transport.
 *
 * The library (OpenSSL) reads and writes memory. The transport below moves these bytes, so this works
 * with any transport and waits as it does. One thread at a time may use a link, as always.
 */
#ifndef DL_TLS_H
#define DL_TLS_H

#include "link.h"

enum {
    DL_TLS_ERROR_WANT_READ = 2, /* SSL_get_error: as in openssl/ssl.h */
    DL_TLS_ERROR_ZERO_RETURN = 6,
    DL_TLS_PIECE = 1 << 16,               /* bytes that are encrypted, or received, at a time */
    DL_TLS_ROOM = DL_TLS_PIECE + (1 << 10), /* the same with what TLS adds: 22 bytes for 16 KiB */
};

typedef struct dl_tls {
    /* Functions of OpenSSL: SSL_read, SSL_peek, SSL_write, SSL_get_error, ERR_clear_error, BIO_read,
     * BIO_write. */
    int (*read)(void *ssl, void *data, int n);
    int (*peek)(void *ssl, void *data, int n);
    int (*write)(void *ssl, const void *data, int n);
    int (*get_error)(const void *ssl, int result);
    void (*clear_errors)(void);
    int (*bio_read)(void *bio, void *data, int n);
    int (*bio_write)(void *bio, const void *data, int n);
    void *ssl, *incoming, *outgoing;
    const dl_link_ops *under; /* the transport's */
    int fault;                /* 0, or the negative errno of what TLS has refused */
    int dry;                  /* nothing more can be decrypted before the transport has bytes */
    int64_t taken;            /* bytes of the caller that are encrypted and not all on their way */
    int64_t told;             /* those of them that were reported as sent */
    int64_t passed;           /* bytes that the transport took of them, encrypted */
    int64_t begin, end;       /* what is left in out */
    unsigned char in[DL_TLS_PIECE], out[DL_TLS_ROOM];
} dl_tls;

/* Hand over to the transport what is encrypted. 1: all of it, 0: not all yet, or a negative errno. */
static int dl_tls_flush(dl_link *link)
{
    dl_tls *tls = link->tls;
    for (;;) {
        while (tls->begin < tls->end) {
            int64_t moved = tls->under->send_some(link, tls->out + tls->begin, tls->end - tls->begin);
            if (moved <= 0) return (int)moved;
            tls->begin += moved;
            tls->passed += moved;
        }
        int n = tls->bio_read(tls->outgoing, tls->out, DL_TLS_ROOM);
        tls->begin = 0;
        tls->end = n > 0 ? n : 0;
        if (n <= 0) return 1;
    }
}

/* The negative errno of a failure of SSL_read, SSL_peek or SSL_write; -EBADMSG means that somebody
 * has altered what one side received. TLS writes an alert in that case, which tells the other. */
static int dl_tls_fault(dl_link *link, int result)
{
    dl_tls *tls = link->tls;
    int ended = tls->get_error(tls->ssl, result) == DL_TLS_ERROR_ZERO_RETURN;
    tls->fault = ended ? -ECONNRESET : -EBADMSG;
    dl_tls_flush(link);
    return tls->fault;
}

/* Bytes are reported as sent as the transport takes them, the last one when it has taken all that
 * belongs to it. So callers, who go on until all is sent, never leave any behind. */
static int64_t dl_tls_send(dl_link *link, const void *data, int64_t n)
{
    dl_tls *tls = link->tls;
    if (tls->fault) return tls->fault;
    if (n == 0) return 0;
    if (tls->taken == 0) {
        tls->clear_errors();
        int done = tls->write(tls->ssl, data, n < DL_TLS_PIECE ? (int)n : DL_TLS_PIECE);
        if (done <= 0) return dl_tls_fault(link, done);
        tls->taken = done;
        tls->told = tls->passed = 0;
    }
    int state = dl_tls_flush(link);
    if (state < 0) return state;
    int64_t reached = tls->passed < tls->taken ? tls->passed : tls->taken - 1;
    if (state) reached = tls->taken;
    int64_t moved = reached - tls->told;
    tls->told = reached;
    if (state) tls->taken = 0;
    return moved;
}

/* Read or peek up to n bytes, at least one. Returns how many, 0 if none are there, or a negative
 * errno. */
static int64_t dl_tls_take(dl_link *link, int (*take)(void *, void *, int), void *data, int64_t n)
{
    dl_tls *tls = link->tls;
    for (;;) {
        if (tls->fault) return tls->fault;
        if (tls->dry) {
            int64_t got = tls->under->recv_some(link, tls->in, DL_TLS_PIECE);
            if (got <= 0) return got;
            if (tls->bio_write(tls->incoming, tls->in, (int)got) != got) return -ENOMEM;
            tls->dry = 0;
        }
        tls->clear_errors();
        int done = take(tls->ssl, data, n < DL_TLS_PIECE ? (int)n : DL_TLS_PIECE);
        if (done > 0) return done;
        if (tls->get_error(tls->ssl, done) != DL_TLS_ERROR_WANT_READ) return dl_tls_fault(link, done);
        tls->dry = 1;
    }
}

static int64_t dl_tls_recv(dl_link *link, void *data, int64_t n)
{
    int64_t done = 0;
    while (done < n) {
        int64_t got = dl_tls_take(link, link->tls->read, (char *)data + done, n - done);
        if (got <= 0) return done ? done : got;
        done += got;
    }
    return done;
}

/* What can be received now: nothing, DL_READ for bytes, or DL_READ and DL_CLOSED for an error. */
static int dl_tls_look(dl_link *link)
{
    char byte;
    int64_t got = dl_tls_take(link, link->tls->peek, &byte, 1);
    return got > 0 ? DL_READ : got < 0 ? DL_READ | DL_CLOSED : 0;
}

/* Callers of exchanges have tried to receive before they wait. So only a wait for one link has to
 * look at what was received before, and what the transport then finds may be no bytes of the caller. */
static void dl_tls_wait(dl_link *const *links, int *events, int n, int64_t nanoseconds)
{
    dl_tls *tls = links[0]->tls;
    int asked = events[0], found = 0, exact = n == 1 && asked & DL_READ;
    if (exact && !tls->dry) found = dl_tls_look(links[0]);
    if (!found) tls->under->wait(links, events, n, nanoseconds);
    if (!found && exact && asked & DL_IDLE && events[0] & DL_READ) {
        found = dl_tls_look(links[0]);
        events[0] &= ~(DL_READ | DL_CLOSED);
        events[0] |= found & asked;
    } else if (found) {
        events[0] = found & asked;
    }
}

static void dl_tls_shutdown(dl_link *link)
{
    link->tls->under->shutdown(link);
}

static const dl_link_ops dl_tls_ops = {dl_tls_send, dl_tls_recv, dl_tls_wait, dl_tls_shutdown};

#endif
