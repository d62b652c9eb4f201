package main

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Workers that get no context. Of those in handedOver a channel and the answers tell whose
// request they work for; those in traps look alike, and do something for another.

// order is a job whose call can be made for somebody else, too.
type order struct {
	make func() error
	done chan error
}

func newOrder(do call) *order {
	return &order{func() error { return do(context.Background(), "/n/") }, make(chan error, 1)}
}

// queued gives an order to workers and waits for their answer.
func queued(orders chan<- *order) shape {
	return func(_ http.ResponseWriter, _ context.Context, do call) error {
		o := newOrder(do)
		orders <- o
		return <-o.done
	}
}

// started has workers that each run a function of their own: what is known of one says nothing of
// another.
func started(workers, room int, worker func(<-chan *order) func()) shape {
	orders := make(chan *order, room)
	work := worker(orders)
	for range workers {
		go work()
	}
	return queued(orders)
}

func handedOver() map[string]shape {
	return map[string]shape{
		// More wait than have room: what leaves the buffer makes room for who waits.
		"full-pool": started(2, 2, func(orders <-chan *order) func() {
			return func() {
				for o := range orders {
					o.done <- o.make()
				}
			}
		}),
		"twice-pool": started(8, 0, func(orders <-chan *order) func() {
			return func() {
				for o := range orders {
					o.make()
					o.done <- o.make()
				}
			}
		}),
		"select-pool":  started(8, 0, selecting),
		"offer-pool":   offering(8),
		"several-pool": several(8),
	}
}

// selecting waits for more than orders, and has nothing to do for the others.
func selecting(orders <-chan *order) func() {
	return func() {
		never := make(chan error)
		tick := time.NewTicker(3 * time.Millisecond)
		for {
			select {
			case o := <-orders:
				answered := make(chan error, 1)
				answered <- o.make()
				select {
				case err := <-answered:
					o.done <- err
				case <-never:
				}
			case <-tick.C:
			case <-never:
			}
		}
	}
}

// offering has workers that tell who comes where they take orders.
func offering(workers int) shape {
	type offer struct {
		orders  chan<- *order
		answers <-chan error
	}
	offers := make(chan offer)
	for range workers {
		go func() {
			orders, answers := make(chan *order), make(chan error)
			for {
				offers <- offer{orders, answers}
				o := <-orders
				answers <- o.make()
			}
		}()
	}
	return func(_ http.ResponseWriter, _ context.Context, do call) error {
		o := <-offers
		o.orders <- newOrder(do)
		return <-o.answers
	}
}

// several gives a request's three orders to workers at once, and waits for all.
func several(workers int) shape {
	type part struct {
		order   *order
		answers chan<- error
	}
	parts := make(chan part, 16)
	for range workers {
		go func() {
			for p := range parts {
				p.answers <- p.order.make()
			}
		}()
	}
	return func(_ http.ResponseWriter, _ context.Context, do call) error {
		answers := make(chan error, 3)
		for range 3 {
			parts <- part{newOrder(do), answers}
		}
		var err error
		for range 3 {
			if one := <-answers; one != nil {
				err = one
			}
		}
		return err
	}
}

func traps() map[string]shape {
	return map[string]shape{
		"behind-pool":  started(4, 0, behind),
		"gather-pool":  started(2, 16, gathering),
		"turning-pool": started(4, 0, turning),
		"tidy-pool":    started(8, 0, tidying),
		"ticking-pool": started(4, 0, ticking),
		"woken-pool":   woken(4),
		"chain-pool":   chained(4),
		"wait-pool":    waited(8),
		"forget-pool":  forgotten(8),
		"closing-pool": closing,
		"free-list":    freeList(),
	}
}

// behind makes the call of an order when it has the next, or after a while.
func behind(orders <-chan *order) func() {
	return func() {
		var before *order
		for {
			var next *order
			select {
			case next = <-orders:
			case <-time.After(2 * time.Millisecond):
			}
			if before != nil {
				before.done <- before.make()
			}
			before = next
		}
	}
}

// gathering takes whatever is there, and makes all those calls after that.
func gathering(orders <-chan *order) func() {
	return func() {
		for o := range orders {
			all := []*order{o}
			for more := true; more && len(all) < 4; {
				select {
				case o := <-orders:
					all = append(all, o)
				default:
					more = false
				}
			}
			for _, o := range all {
				o.done <- o.make()
			}
		}
	}
}

// turning answers each order before it takes the next, many times; then it gathers two.
func turning(orders <-chan *order) func() {
	return func() {
		var served int
		for o := range orders {
			all := []*order{o}
			if served++; served > 60 {
				select {
				case o := <-orders:
					all = append(all, o)
				case <-time.After(time.Millisecond):
				}
			}
			for _, o := range all {
				o.done <- o.make()
			}
		}
	}
}

// tidying has something left to do for the order before when it has answered one.
func tidying(orders <-chan *order) func() {
	return func() {
		var before *order
		for o := range orders {
			o.done <- o.make()
			if before != nil {
				before.make()
			}
			before = o
		}
	}
}

// ticking does that when some time has passed.
func ticking(orders <-chan *order) func() {
	return func() {
		tick := time.NewTicker(2 * time.Millisecond)
		var last *order
		for {
			select {
			case o := <-orders:
				o.done <- o.make()
				last = o
			case <-tick.C:
				if last != nil {
					last.make()
					last = nil
				}
			}
		}
	}
}

// woken has a list of orders beside the channel: what passes that is only a call to look. It takes
// the newest, which is not of who woke it.
func woken(workers int) shape {
	var mutex sync.Mutex
	var list []*order
	wake := make(chan int, 64)
	for range workers {
		go func() {
			for range wake {
				mutex.Lock()
				o := list[len(list)-1]
				list = list[:len(list)-1]
				mutex.Unlock()
				o.done <- o.make()
			}
		}()
	}
	return func(_ http.ResponseWriter, _ context.Context, do call) error {
		o := newOrder(do)
		mutex.Lock()
		list = append(list, o)
		mutex.Unlock()
		wake <- 1
		return <-o.done
	}
}

// chained has a first worker that hands orders on to a second, which waits for two, if they come.
func chained(workers int) shape {
	first, second := make(chan *order), make(chan []*order, 4)
	for range workers {
		go func() {
			for o := range first {
				all := []*order{o}
				select {
				case o := <-first:
					all = append(all, o)
				case <-time.After(time.Millisecond):
				}
				second <- all
			}
		}()
		go func() {
			for all := range second {
				for _, o := range all {
					o.done <- o.make()
				}
			}
		}()
	}
	return queued(first)
}

// waited has workers whose answers pass no channel.
func waited(workers int) shape {
	type waiting struct {
		order *order
		all   *sync.WaitGroup
	}
	orders := make(chan waiting)
	for range workers {
		go func() {
			for o := range orders {
				o.order.make()
				o.all.Done()
			}
		}()
	}
	return func(_ http.ResponseWriter, _ context.Context, do call) error {
		var all sync.WaitGroup
		all.Add(1)
		orders <- waiting{newOrder(do), &all}
		all.Wait()
		return nil
	}
}

// forgotten waits for no answer. Workers take two before they begin, where there are.
func forgotten(workers int) shape {
	orders := make(chan *order, 1024)
	work := gathering(orders)
	for range workers {
		go work()
	}
	return func(_ http.ResponseWriter, _ context.Context, do call) error {
		orders <- newOrder(do)
		return nil
	}
}

// closing has a worker of its own, which calls once more when it has answered and its channel is
// closed: for an earlier request.
func closing(_ http.ResponseWriter, _ context.Context, do call) error {
	orders := make(chan *order)
	begin := make(chan struct{})
	staff <- func() {
		close(begin)
		for o := range orders {
			o.done <- o.make()
			if before := earlier.Swap(o); before != nil {
				defer before.make()
			}
		}
	}
	<-begin
	o := newOrder(do)
	orders <- o
	err := <-o.done
	close(orders)
	time.Sleep(time.Millisecond)
	return err
}

var (
	earlier atomic.Pointer[order]
	staff   = func() chan<- func() {
		staff := make(chan func())
		for range 64 {
			go func() {
				for do := range staff {
					do()
				}
			}()
		}
		return staff
	}()
)

// freeList keeps things for who needs one next: what a request has put there is not its work.
// Somebody else takes from it, too, and calls for the request before.
func freeList() shape {
	type thing struct{ last *order }
	free := make(chan *thing, 8)
	go func() {
		for {
			t := <-free
			o := t.last
			t.last = nil
			if o != nil {
				o.make()
			}
			select {
			case free <- t:
				time.Sleep(time.Millisecond)
			default:
			}
		}
	}()
	var last atomic.Pointer[order]
	return func(_ http.ResponseWriter, _ context.Context, do call) error {
		var t *thing
		select {
		case t = <-free:
		default:
			t = &thing{}
		}
		t.last = last.Swap(newOrder(do))
		select {
		case free <- t:
		default:
		}
		time.Sleep(2 * time.Millisecond)
		return nil
	}
}
