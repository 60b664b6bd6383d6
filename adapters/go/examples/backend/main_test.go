package main

import (
	"bytes"
	"context"
	"image"
	"image/png"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	upscaled "github.com/upscaled/upscaled/adapters/go"
)

func post(t *testing.T, url string, upload []byte) *http.Response {
	t.Helper()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("image", "../../name")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = part.Write(upload)
	form.Close()
	response, err := http.Post(url, form.FormDataContentType(), &body)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response
}

func TestThePictureComesBackLarger(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 400*time.Second)
	defer cancel()
	client, err := upscaled.Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server := httptest.NewServer(handler(client))
	defer server.Close()

	var picture bytes.Buffer
	if err := png.Encode(&picture, image.NewRGBA(image.Rect(0, 0, 24, 16))); err != nil {
		t.Fatal(err)
	}
	larger, err := png.Decode(post(t, server.URL+"/upscale?factor=2", picture.Bytes()).Body)
	if err != nil || larger.Bounds().Size() != image.Pt(48, 32) {
		t.Errorf("%v, %v", larger, err)
	}

	for url, want := range map[string]int{
		"/upscale":              http.StatusUnsupportedMediaType,
		"/upscale?factor=1e9":   http.StatusBadRequest,
		"/upscale?factor=large": http.StatusBadRequest,
	} {
		response := post(t, server.URL+url, []byte("no picture"))
		text, _ := io.ReadAll(response.Body)
		if response.StatusCode != want || strings.Contains(string(text), "/tmp") {
			t.Errorf("%s: %s %s", url, response.Status, text)
		}
	}

	response, err := http.Get(server.URL + "/health")
	if err != nil || response.StatusCode != http.StatusOK {
		t.Errorf("%v, %v", response, err)
	}
	response.Body.Close()
}

func TestARequestUnderWayIsAnsweredBeforeTheProgramEnds(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	returned := make(chan struct{})
	isEarly := false
	go func() {
		defer close(returned)
		_ = serve(ctx, listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			cancel()
			select {
			case <-returned:
				isEarly = true
			case <-time.After(200 * time.Millisecond):
			}
			_, _ = io.WriteString(w, "larger")
		}))
	}()
	response, err := http.Get("http://" + listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || string(text) != "larger" || isEarly {
		t.Errorf("%q, %v, early: %t", text, err, isEarly)
	}
	select {
	case <-returned:
	case <-time.After(60 * time.Second):
		t.Error("serve does not return")
	}
}
