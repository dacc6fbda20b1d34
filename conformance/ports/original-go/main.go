// Command shim makes the original Go implementation answer to the conformance suite (profile tcp of SHIM.md): its
// client and its server as a program uses them. It holds nothing of theirs; it imports them.
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"os"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
	"github.com/valyala/httpteleport"
)

// Claimed is what the original can be asked for. It has neither limits nor a way to cancel, to close or to send a
// request that wants no response, its responses cannot be refused to the handler, and its errors are no codes.
var claimed = []string{"client", "server", "none", "deflate", "snappy", "frames", "batch-delay", "head", "tls"}

// Command is a line of the suite. Which of its fields are there depends on the command.
type command struct {
	Command string
	Role    string
	Connect string
	Config  struct {
		Compression   string
		TLS           interface{}
		MaxBatchDelay int64 `json:"max_batch_delay"`
		Limits        struct{ Head, Pending int }
	}
	Now      int64
	Tag      uint64
	Ticket   uint64
	Method   string
	Target   string
	Fields   [][2]string
	Body     string
	Deadline *int64
	Status   int
}

// Object is a line for the suite.
type object map[string]interface{}

// Teller writes lines. What belongs to an earlier connection is dropped.
type teller struct {
	mutex      sync.Mutex
	connection int
}

func (t *teller) answer(line object) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	write(line)
}

func (t *teller) tell(connection int, event object) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if connection == t.connection {
		write(event)
	}
}

// Begin makes what is told of connections so far out of date.
func (t *teller) begin() int {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.connection++
	return t.connection
}

func write(line object) {
	text, err := json.Marshal(line)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := os.Stdout.Write(append(text, '\n')); err != nil {
		os.Exit(1) // The suite has gone.
	}
}

var compressions = map[string]httpteleport.CompressType{
	"none":    httpteleport.CompressNone,
	"deflate": httpteleport.CompressFlate,
	"snappy":  httpteleport.CompressSnappy,
}

// End is the client or the server of one connection.
type end struct {
	teller     *teller
	connection int
	listener   net.Listener
	client     *httpteleport.Client
	mutex      sync.Mutex
	tickets    uint64
	unanswered map[uint64]chan command
}

// Serve begins a server on a port of its own.
func (e *end) serve(c *command) (object, error) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	e.listener = listener
	var secure *tls.Config
	if c.Config.TLS != "off" {
		certificate, err := tls.LoadX509KeyPair(os.Getenv("TELEPORT_TLS_CERT"), os.Getenv("TELEPORT_TLS_KEY"))
		if err != nil {
			return nil, err
		}
		secure = &tls.Config{Certificates: []tls.Certificate{certificate}}
	}
	server := &httpteleport.Server{
		Handler:        e.handle,
		CompressType:   compressions[c.Config.Compression],
		MaxBatchDelay:  time.Duration(c.Config.MaxBatchDelay) * time.Microsecond,
		ReadBufferSize: c.Config.Limits.Head,
		Logger:         log.New(io.Discard, "", 0),
		TLSConfig:      secure,
	}
	go server.Serve(listener)
	return object{"listen": listener.Addr().String()}, nil
}

// Handle tells the suite of a request and waits for its answer. The handler knows neither the id nor whether a
// response is wanted.
func (e *end) handle(ctx *fasthttp.RequestCtx) {
	answer := make(chan command, 1)
	e.mutex.Lock()
	e.tickets++
	ticket := e.tickets
	e.unanswered[ticket] = answer
	e.mutex.Unlock()
	e.teller.tell(e.connection, object{
		"event": "request", "ticket": ticket, "id": nil,
		"method": text(ctx.Method()), "target": text(ctx.RequestURI()),
		"fields": fields(ctx.Request.Header.VisitAll), "body": hex.EncodeToString(ctx.Request.Body()),
	})
	select {
	case c := <-answer:
		ctx.SetStatusCode(c.Status)
		for _, field := range c.Fields {
			ctx.Response.Header.SetBytesKV(raw(field[0]), raw(field[1]))
		}
		body, _ := hex.DecodeString(c.Body)
		ctx.SetBody(body)
	case <-time.After(time.Minute): // Nobody answers once the next connection has begun.
	}
}

func (e *end) respond(c *command) (object, error) {
	e.mutex.Lock()
	answer := e.unanswered[c.Ticket]
	delete(e.unanswered, c.Ticket)
	e.mutex.Unlock()
	if answer == nil {
		return nil, errors.New("no such ticket")
	}
	answer <- *c
	return object{}, nil
}

// Dial begins a client, which connects once.
func (e *end) dial(c *command) error {
	addr, isFirst := c.Connect, true
	var secure *tls.Config
	if c.Config.TLS == true {
		authority, err := os.ReadFile(os.Getenv("TELEPORT_TLS_CA"))
		if err != nil {
			return err
		}
		secure = &tls.Config{ServerName: "localhost", RootCAs: x509.NewCertPool()}
		secure.RootCAs.AppendCertsFromPEM(authority)
	}
	e.client = &httpteleport.Client{
		Addr:               addr,
		CompressType:       compressions[c.Config.Compression],
		MaxBatchDelay:      time.Duration(c.Config.MaxBatchDelay) * time.Microsecond,
		MaxPendingRequests: c.Config.Limits.Pending,
		ReadBufferSize:     c.Config.Limits.Head,
		TLSConfig:          secure,
		Dial: func(string) (net.Conn, error) {
			if !isFirst {
				return nil, errors.New("the suite takes one connection")
			}
			isFirst = false
			return net.Dial("tcp4", addr)
		},
	}
	// It dials when it is first used, even for a request whose deadline has passed.
	var request fasthttp.Request
	var response fasthttp.Response
	request.SetRequestURI("http://h/")
	e.client.DoDeadline(&request, &response, time.Now().Add(-time.Second))
	return nil
}

// Request sends a request. It is answered once the client has it, so that requests leave in their order.
func (e *end) request(c *command) {
	var request fasthttp.Request
	request.Header.SetMethodBytes(raw(c.Method))
	request.Header.SetRequestURIBytes(raw(c.Target))
	for _, field := range c.Fields {
		switch field[0] {
		case "Host", "User-Agent", "Content-Type": // fasthttp keeps these apart from the others.
			request.Header.SetBytesKV(raw(field[0]), raw(field[1]))
		default:
			request.Header.AddBytesKV(raw(field[0]), raw(field[1]))
		}
	}
	body, _ := hex.DecodeString(c.Body)
	request.SetBody(body)
	deadline := time.Now().Add(time.Hour)
	if c.Deadline != nil {
		deadline = time.Now().Add(time.Duration(*c.Deadline-c.Now) * time.Microsecond)
	}
	before, done, tag := e.client.PendingRequests(), make(chan struct{}), c.Tag
	go func() {
		defer close(done)
		var response fasthttp.Response
		if err := e.client.DoDeadline(&request, &response, deadline); err != nil {
			e.teller.tell(e.connection, object{
				"event": "failed", "tag": tag, "code": "transport", "maybe_delivered": true,
			})
			return
		}
		e.teller.tell(e.connection, object{
			"event": "response", "tag": tag, "status": response.StatusCode(),
			"fields": fields(response.Header.VisitAll), "body": hex.EncodeToString(response.Body()),
		})
	}()
	for until := time.Now().Add(50 * time.Millisecond); time.Now().Before(until); {
		select {
		case <-done:
			return
		default:
		}
		if e.client.PendingRequests() > before {
			return
		}
		time.Sleep(100 * time.Microsecond)
	}
}

func fields(visit func(func(name, value []byte))) [][2]string {
	all := [][2]string{}
	visit(func(name, value []byte) { all = append(all, [2]string{text(name), text(value)}) })
	return all
}

// Text makes a character of each byte, as SHIM.md has it; raw is its inverse.
func text(raw []byte) string {
	runes := make([]rune, len(raw))
	for at, b := range raw {
		runes[at] = rune(b)
	}
	return string(runes)
}

func raw(text string) []byte {
	raw := []byte{}
	for _, r := range text {
		raw = append(raw, byte(r))
	}
	return raw
}

func main() {
	log.SetOutput(io.Discard) // Of links that break; a fault of the shim shows in its answers.
	var current *end
	teller := &teller{}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<28)
	for lines.Scan() {
		var c command
		answer, err := object{}, json.Unmarshal(lines.Bytes(), &c)
		switch {
		case err != nil:
		case c.Command == "describe":
			answer = object{"name": "original", "version": "81f5a7b", "profile": "tcp", "can": claimed}
		case c.Command == "new":
			if current != nil && current.listener != nil {
				current.listener.Close()
			}
			current = &end{teller: teller, connection: teller.begin(), unanswered: map[uint64]chan command{}}
			if c.Role == "server" {
				answer, err = current.serve(&c)
			} else {
				err = current.dial(&c)
			}
		case c.Command == "request" && current != nil && current.client != nil:
			current.request(&c)
		case c.Command == "respond" && current != nil:
			answer, err = current.respond(&c)
		default:
			err = errors.New("the original has no " + c.Command)
		}
		if err != nil {
			answer = object{"nack": err.Error()}
		}
		teller.answer(answer)
	}
}
