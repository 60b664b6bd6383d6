package upscaledqueue

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

const defaultPort = "6379"

// address is where a Redis is, and how to enter it.
type address struct {
	isTLS          bool
	host           string // with its port
	user, password string
	db             int
}

// readAddress reads redis://[USER:PASSWORD@]HOST[:PORT][/DB]. No error has a part of the URL that may be the password.
func readAddress(text string) (address, error) {
	if text == "" {
		return address{}, errors.New("no queue is named: give redis://HOST:PORT/DB")
	}
	parsed, err := url.Parse(text)
	// An @ without a user before it is that of a password that was cut off by its own characters.
	if err != nil || parsed.Scheme == "" || parsed.Opaque != "" || parsed.User == nil && strings.Contains(text, "@") {
		return address{}, errors.New("the queue's URL cannot be read: give redis://[USER:PASSWORD@]HOST[:PORT][/DB], " +
			"with / # ? @ in the password written as %2F %23 %3F %40")
	}
	if parsed.Scheme != "redis" && parsed.Scheme != "rediss" {
		return address{}, fmt.Errorf("the queue is of the kind %s://; this client gives jobs to Celery on Redis alone: give redis:// "+
			"or rediss://, or let WithCommand(\"upscaled\", \"queue\", \"run\") of the package upscaled start the client of any queue", parsed.Scheme)
	}
	if parsed.RawQuery != "" || parsed.Fragment != "" {
		return address{}, errors.New("the queue's URL has options behind a ? or #, which this client does not know: leave them out, and give WithTLS for TLS")
	}
	a := address{isTLS: parsed.Scheme == "rediss"}
	host, port := parsed.Hostname(), parsed.Port()
	if host == "" {
		host = "localhost"
	}
	if port == "" {
		port = defaultPort
	}
	a.host = net.JoinHostPort(host, port)
	a.user = parsed.User.Username()
	a.password, _ = parsed.User.Password()
	if db := strings.Trim(parsed.Path, "/"); db != "" {
		if a.db, err = strconv.Atoi(db); err != nil || a.db < 0 {
			return address{}, fmt.Errorf("the queue's database is %q: give a whole number, as in redis://HOST:PORT/0", db)
		}
	}
	return a, nil
}

// String is the URL without its user and password.
func (a address) String() string {
	scheme := "redis"
	if a.isTLS {
		scheme = "rediss"
	}
	return fmt.Sprintf("%s://%s/%d", scheme, a.host, a.db)
}
