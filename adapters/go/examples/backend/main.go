// An HTTP backend: `curl -F image=@in.png 'localhost:8080/upscale?factor=2' -o out.png`.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	upscaled "github.com/upscaled/upscaled/adapters/go"
)

const uploadLimitBytes = 50 << 20

// statuses has the codes that are the user's to mend; the others are ours.
var statuses = map[upscaled.Code]int{
	upscaled.CodeInputUnreadable:   http.StatusUnprocessableEntity,
	upscaled.CodeInputTooLarge:     http.StatusRequestEntityTooLarge,
	upscaled.CodeUnsupportedFormat: http.StatusUnsupportedMediaType,
	upscaled.CodeInvalidJob:        http.StatusBadRequest,
	upscaled.CodeQueueFull:         http.StatusServiceUnavailable,
	upscaled.CodeShuttingDown:      http.StatusServiceUnavailable,
	upscaled.CodeDeadlineExceeded:  http.StatusGatewayTimeout,
}

func main() {
	address := flag.String("address", "127.0.0.1:8080", "address to listen on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	client, err := upscaled.Start(ctx)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		client.Close()
		log.Fatal(err)
	}
	if err := serve(ctx, listener, handler(client)); err != nil {
		log.Print(err)
	}
	client.Close()
}

// serve answers requests until the context ends. It returns when the requests under way have their answers: the daemon is
// needed until then.
func serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		// Serve returns as soon as Shutdown begins.
		return server.Shutdown(context.Background())
	}
}

func handler(client *upscaled.Client) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/upscale", func(w http.ResponseWriter, r *http.Request) { upscale(client, w, r) })
	mux.HandleFunc("/health", func(w http.ResponseWriter, r *http.Request) { health(client, w, r) })
	return mux
}

// upscale answers a picture with a larger one. A client that goes away cancels its job.
func upscale(client *upscaled.Client, w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		http.Error(w, "POST a picture", http.StatusMethodNotAllowed)
		return
	}
	factor := 4.0
	if text := r.URL.Query().Get("factor"); text != "" {
		var err error
		if factor, err = strconv.ParseFloat(text, 64); err != nil {
			http.Error(w, "factor is no number", http.StatusBadRequest)
			return
		}
	}
	folder, err := os.MkdirTemp("", "upscale")
	if err != nil {
		fail(w, err)
		return
	}
	defer os.RemoveAll(folder)
	// No name of the user's is ever a path.
	input, output := filepath.Join(folder, "in"), filepath.Join(folder, "out.png")
	if err := save(w, r, input); err != nil {
		http.Error(w, "the field image is missing or too large", http.StatusBadRequest)
		return
	}
	config := upscaled.EsrganConfig{ImagePath: input, OutputPath: output, UpscaleFactor: factor}
	if _, err := client.Upscale(r.Context(), upscaled.Job{Config: config, TimeoutS: 600}); err != nil {
		fail(w, err)
		return
	}
	http.ServeFile(w, r, output)
}

func save(w http.ResponseWriter, r *http.Request, path string) error {
	r.Body = http.MaxBytesReader(w, r.Body, uploadLimitBytes)
	upload, _, err := r.FormFile("image")
	if err != nil {
		return err
	}
	defer upload.Close()
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err = io.Copy(file, upload); err != nil {
		file.Close()
		return err
	}
	return file.Close()
}

func health(client *upscaled.Client, w http.ResponseWriter, r *http.Request) {
	report, err := client.Health(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(report)
}

// fail sends the user the code and logs the rest, because sentences may hold paths of this machine.
func fail(w http.ResponseWriter, err error) {
	log.Print(err)
	code, status := upscaled.CodeInternal, http.StatusInternalServerError
	var failed *upscaled.JobError
	if errors.As(err, &failed) {
		code = failed.Message.Code
		if known, ok := statuses[code]; ok {
			status = known
		}
	} else if errors.Is(err, upscaled.ErrDaemonGone) {
		status = http.StatusServiceUnavailable
	}
	http.Error(w, string(code), status)
}
