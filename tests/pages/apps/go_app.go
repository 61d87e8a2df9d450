// Go's own server with the recovering handler that many apps have: go run go_app.go PORT
package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"runtime/debug"
)

func price(cart []int, at int) int { return cart[at] }

func recovering(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			problem := recover()
			if problem == nil {
				return
			}
			w.WriteHeader(http.StatusInternalServerError)
			if r.URL.Path == "/json" {
				json.NewEncoder(w).Encode(map[string]string{"error": fmt.Sprint(problem), "stack": string(debug.Stack())})
				return
			}
			fmt.Fprintf(w, "panic: %v\n\n%s", problem, debug.Stack())
		}()
		next(w, r)
	}
}

func main() {
	http.HandleFunc("/error", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "the order could not be saved", http.StatusInternalServerError)
	})
	http.HandleFunc("/", recovering(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, price([]int{12}, 7))
	}))
	fmt.Fprintln(os.Stderr, http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
