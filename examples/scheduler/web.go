package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/understudy-ha/understudy/pkg/artifact"
	"github.com/understudy-ha/understudy/pkg/ha"
)

// maxArgument is the longest argument of a job, in bytes.
const maxArgument = 64 << 10

func (s *scheduler) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /jobs", s.postJob)
	mux.HandleFunc("GET /jobs", s.getJobs)
	mux.HandleFunc("GET /jobs/{id}", s.getJob)
	mux.HandleFunc("PUT /artifacts/{name}", s.putArtifact)
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, s.node.State()) })
	return mux
}

func (s *scheduler) postJob(w http.ResponseWriter, r *http.Request) {
	argument, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxArgument))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	name := r.URL.Query().Get("artifact")
	if _, err := s.depot.Library.Get(r.Context(), name); err != nil {
		refuse(w, err)
		return
	}
	j, err := s.submit(r.Context(), job{Artifact: name, Argument: string(argument)})
	answer(w, http.StatusCreated, j, err)
}

func (s *scheduler) getJobs(w http.ResponseWriter, _ *http.Request) {
	p, err := s.node.Persisted().Picture()
	if err != nil {
		refuse(w, err)
		return
	}
	jobs := []json.RawMessage{}
	for e := range p.List(jobPrefix, "") {
		jobs = append(jobs, e.Value)
	}
	answer(w, http.StatusOK, jobs, nil)
}

func (s *scheduler) getJob(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseUint(r.PathValue("id"), 10, 64)
	if err != nil {
		http.Error(w, "a job is a number", http.StatusBadRequest)
		return
	}
	e, ok, err := s.node.Persisted().Get(jobKey(id))
	if err == nil && !ok {
		http.Error(w, "there is no such job", http.StatusNotFound)
		return
	}
	answer(w, http.StatusOK, json.RawMessage(e.Value), err)
}

func (s *scheduler) putArtifact(w http.ResponseWriter, r *http.Request) {
	e, err := s.push(r.Context(), r.PathValue("name"), artifact.Content{R: r.Body, Size: r.ContentLength})
	answer(w, http.StatusOK, e, err)
}

func answer(w http.ResponseWriter, code int, v any, err error) {
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // who asked may be gone
}

// refuse says what went wrong. 504 is the one answer that leaves open whether
// the job or artifact is there: look, before it is sent again.
func refuse(w http.ResponseWriter, err error) {
	code := http.StatusServiceUnavailable
	switch {
	case errors.Is(err, ha.ErrUnknown), errors.Is(err, artifact.ErrUndecided):
		code = http.StatusGatewayTimeout
	case errors.Is(err, artifact.ErrNone):
		code = http.StatusNotFound
	case errors.Is(err, artifact.ErrName):
		code = http.StatusBadRequest
	}
	http.Error(w, err.Error(), code)
}
